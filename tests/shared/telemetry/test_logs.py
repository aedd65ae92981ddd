"""Log lines as a process writes them; each test configures a process of its own."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

PRELUDE = """
import logging, structlog
from shared import settings
from shared.telemetry import logs
logs.configure(settings.load(), process="worker", worker="w1")
log = structlog.get_logger("here")
"""


def run(script: str, **environment: str) -> str:
    """What a process with these settings writes to standard error."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script],
        check=False,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return done.stderr


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def test_our_lines_and_those_of_libraries_look_alike() -> None:
    ours, theirs = lines(
        run("log.info('a', n=1); logging.getLogger('lib').warning('b %s', 2, extra={'k': 3})")
    )
    assert {"event": "a", "n": 1, "level": "info", "logger": "here"}.items() <= ours.items()
    assert {"event": "b 2", "k": 3, "level": "warning", "logger": "lib"}.items() <= theirs.items()
    for line in (ours, theirs):
        assert line["worker"] == "w1"
        assert line["timestamp"].endswith("Z")


def test_levels_perf_and_status_lie_between_debug_and_info() -> None:
    script = "for n in (10, 15, 16, 20): logging.getLogger('x').log(n, str(n))"
    assert [line["event"] for line in lines(run(script))] == ["20"]
    assert [line["event"] for line in lines(run(script, LOG_LEVEL="status"))] == ["16", "20"]
    shown = lines(run(script, LOG_LEVEL="PERF"))
    assert [line["level"] for line in shown] == ["perf", "status", "info"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_line_holds_a_credential_or_a_payload(log_format: str) -> None:
    script = """
url = "rtsp://me:sesame@camera/1"
payload = "data:video/mp4;base64," + "QUJD" * 1000
log.info(f"opening {url}", url=url, deep={"list": [url, ("password=sesame",)]}, error=OSError(url))
log.info("got", body=payload)
logging.getLogger("lib").error("url %s", url, extra={"also": payload})
try:
    raise ValueError(f"cannot open {url} with hf_abcdef")
except ValueError:
    log.exception("failed")
    logging.getLogger("lib").exception("failed too")
"""
    text = run(script, RTEMBED_LOG_FORMAT=log_format, HF_TOKEN="hf_abcdef")
    assert "sesame" not in text
    assert "hf_abcdef" not in text
    assert "QUJDQUJD" not in text
    assert text.count("camera/1") >= 5
    assert text.count("data:video/mp4;base64,...") == 2
    assert text.count("Traceback") == 2


def test_numbers_and_flags_stay_what_they_are() -> None:
    (line,) = lines(run("log.info('x', n=3, f=0.5, t=True, none=None, many=(1, 2))"))
    assert (line["n"], line["f"], line["t"], line["none"], line["many"]) == (3, 0.5, True, None, [1, 2])


def test_a_line_has_bounds_whatever_is_logged() -> None:
    (line,) = lines(
        run("log.info('x', names=['n'] * 5000, text='t' * 10**6, more={'k' * 10**5: 1}, big=10**5000)")
    )
    assert len(line["names"]) == 64
    assert line["text"].endswith("... (cut)")
    assert line["big"] == "(a very large number)"
    assert len(json.dumps(line)) < 50_000


def test_a_folder_of_log_files(tmp_path: Path) -> None:
    old, fresh, other = (tmp_path / name for name in ("rtvi-w0.log", "rtvi-w9.log", "notes.txt"))
    for path in (old, fresh, other):
        path.write_text("x")
    week_ago = time.time() - 8 * 86_400
    os.utime(old, (week_ago, week_ago))
    os.utime(other, (week_ago, week_ago))
    run("log.warning('kept')", RTVI_LOG_DIR=str(tmp_path))
    (line,) = lines((tmp_path / "rtvi-w1.log").read_text())
    assert line["event"] == "kept"
    assert not old.exists()
    assert fresh.exists()
    assert other.exists()


def test_the_path_wins_over_the_folder_and_files_rotate(tmp_path: Path) -> None:
    script = """
log.warning("yesterday")
handler = logging.getLogger().handlers[1]
handler.rolloverAt = 0
log.warning("today")
"""
    path = tmp_path / "sub" / "service.log"
    run(script, LOG_FILE_PATH=str(path), RTVI_LOG_DIR="/nowhere")
    today = path.with_name("service-w1.log")
    (yesterday,) = path.parent.glob("service-w1.log.*")
    assert lines(yesterday.read_text())[0]["event"] == "yesterday"
    assert lines(today.read_text())[0]["event"] == "today"


def test_a_path_that_cannot_be_written_is_said_and_the_terminal_goes_on(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    warning, line = lines(run("log.info('on')", LOG_FILE_PATH=str(blocked / "x.log")))
    assert warning["event"] == "no log file"
    assert warning["level"] == "warning"
    assert line["event"] == "on"
