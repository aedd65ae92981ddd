"""The page on which workers and indexers tell how they are."""

import httpx
import pytest
from prometheus_client import CollectorRegistry

from shared.telemetry.health_page import HealthPage


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
