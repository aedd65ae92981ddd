"""A worker that is stuck is seen, says why, and ends to be replaced."""

import subprocess
import sys

import httpx
import pytest
from prometheus_client import CollectorRegistry

from worker.health import HUNG, HealthPage

BLOCKED_LOOP = """
import asyncio, time
from worker.health import Watch

async def main():
    watch = Watch(lambda: None, patience=0, loop_timeout=3)
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(1.5)
    print("well", repr(watch.problem), flush=True)
    time.sleep(60)

asyncio.run(main())
"""


def test_a_blocked_event_loop_ends_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED_LOOP], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.splitlines()[0] == "well ''"
    assert done.returncode == HUNG
    assert "the event loop stands still" in done.stdout


def test_a_page_says_what_is_wrong() -> None:
    trouble = ""
    page = HealthPage(CollectorRegistry(), lambda: trouble, lambda: "starting: loading the model")
    port, close = page.serve("127.0.0.1", 0)
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/live").status_code == 200
        trouble = "stuck"
        assert (httpx.get(f"http://127.0.0.1:{port}/live").status_code, page.answer("/live")[1]) == (
            503,
            b"stuck",
        )
        assert httpx.get(f"http://127.0.0.1:{port}/ready").text == "starting: loading the model"
    finally:
        close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/live")
