"""Live streams of services with several workers, narrow limits, or a slow model."""

import contextlib
import os
import signal
import subprocess
import time
from functools import partial
from itertools import pairwise
from typing import Any

import psutil
import pytest
from redis import Redis

from shared import keys
from shared.timestamps import parse_timestamp
from tests.camera import Picture, ScriptedCamera
from tests.e2e.conftest import Stack
from tests.e2e.live.conftest import MILLISECOND, URL, Kind, Watcher, add, events_of, like, status, told
from tests.support import wait_for, watched


@like(
    RTVI_RTSP_RECONNECTION_MAX_ATTEMPTS="2",
    VSS_SKIP_INPUT_MEDIA_VERIFICATION="1",
    RTEMBED_RTSP_OPEN_TIMEOUT="1",
    RTEMBED_MAX_LIVE_STREAMS="2",
)
def test_a_silent_camera_is_given_up_and_the_others_go_on(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    listener = told(redis)
    with ScriptedCamera(pictures, deaf=True) as deaf, ScriptedCamera(pictures) as good:
        silent, lively = add(live_stack, deaf.url, good.url)
        lost, watcher = Watcher(live_stack, silent), Watcher(live_stack, lively)
        lost.join(20)
        assert lost.done
        assert lost.events == []
        wait_for(lambda: len(watcher.chunks) >= 2)
        assert not watcher.done
    said = [e["event"] for e in events_of(listener) if e["streamId"] == silent]
    assert [event.split(":")[0] for event in said] == [
        "Live stream received error. Retrying after 0.3 seconds, attempt 1",
        "Live stream received error. Retrying after 0.3 seconds, attempt 2",
        "Live stream received error. Max reconnection attempts 2, timeout 60 seconds",
    ]


@like(
    RTVI_RTSP_RECONNECTION_MAX_ATTEMPTS="2",
    VSS_SKIP_INPUT_MEDIA_VERIFICATION="1",
    RTEMBED_RTSP_OPEN_TIMEOUT="1",
    RTEMBED_MAX_LIVE_STREAMS="2",
)
def test_more_streams_than_may_be(live_stack: Stack, pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures) as camera:
        one, two, other = add(live_stack, *[camera.url] * 3)
        running = [Watcher(live_stack, one), Watcher(live_stack, two)]
        wait_for(lambda: all(watcher.chunks for watcher in running))
        busy = live_stack.client.post(
            URL, json={"id": other, "model": "null", "stream": True, "chunk_duration": 1}
        )
        assert (busy.status_code, busy.json()["code"]) == (503, "ServerBusy")
        assert "maximum number of live streams (2)" in busy.json()["message"]
        live_stack.client.delete(f"{URL}/{one}")
        watcher = Watcher(live_stack, other)
        wait_for(lambda: watcher.chunks)


def owner(redis: Redis, stream: str) -> bytes:
    found = redis.hget(keys.live(stream), "owner")
    return found if isinstance(found, bytes) else b""


def worker_of(redis: Redis, stack: Stack, stream: str) -> subprocess.Popen[bytes]:
    """The watchdog of the worker that has the stream's session."""
    wait_for(lambda: owner(redis, stream))
    pid = int(redis.hget(keys.worker(owner(redis, stream).decode()), "pid") or 0)
    return next(w for w in stack.workers if w.poll() is None and watched(w.pid).pid == pid)


@like(workers=2)
def test_sessions_spread_over_the_workers(live_stack: Stack, redis: Redis, pictures: list[Picture]) -> None:
    with ScriptedCamera(pictures) as camera:
        streams = add(live_stack, *[camera.url] * 4)
        watchers = [Watcher(live_stack, stream) for stream in streams]
        wait_for(lambda: all(watcher.chunks for watcher in watchers))
        owners = [owner(redis, stream) for stream in streams]
        assert sorted(owners.count(name) for name in set(owners)) == [2, 2]
        answer = live_stack.client.request(
            "DELETE", "/streams/delete-batch", json={"stream_ids": [*streams, "0" * 32]}
        )
        assert answer.json()["deleted"] == streams
        (error,) = answer.json()["errors"]
        assert (error["error_code"], error["status_code"]) == ("BadParameter", 400)
        for watcher in watchers:
            watcher.join(10)
            assert watcher.done
        wait_for(lambda: redis.xlen(keys.jobs("live", "null")) == 0)


@like(RTEMBED_LIVE_MOVES="3")
def test_a_new_worker_gets_its_share_without_a_gap(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    with ScriptedCamera(pictures) as camera:
        streams = add(live_stack, *[camera.url] * 4)
        watchers = [Watcher(live_stack, stream) for stream in streams]
        wait_for(lambda: all(watcher.chunks for watcher in watchers))
        live_stack.start_worker()

        def share() -> list[int]:
            owners = [owner(redis, stream) for stream in streams]
            return sorted(owners.count(name) for name in set(owners))

        wait_for(lambda: share() == [2, 2], 40)
        counts = [len(watcher.chunks) for watcher in watchers]
        wait_for(lambda: all(len(w.chunks) >= n + 2 for w, n in zip(watchers, counts, strict=True)))
        assert share() == [2, 2]
        for watcher in watchers:
            chunks = watcher.chunks
            ends = [parse_timestamp(chunk["end_time"]) for chunk in chunks]
            gaps = [start - end for start, end in zip(watcher.starts[1:], ends, strict=False)]
            assert len(watcher.starts) == len(chunks), "every chunk was embedded"
            assert all(0 <= gap < 250 * MILLISECOND for gap in gaps), gaps
            stored: Any = redis.xrange(keys.results(watcher.request))
            assert [int(f[b"chunk"]) for _, f in stored if b"chunk" in f] == list(range(len(stored)))
        assert live_stack.logs().count("live session handed over") == 2
        assert not redis.exists(keys.LIVE_MOVES)


@like(workers=2)
@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL])
def test_a_session_goes_on_when_its_worker_does_not(
    live_stack: Stack, redis: Redis, pictures: list[Picture], how: signal.Signals
) -> None:
    """Dead, hung or stopped: another worker goes on, and the client sees no more than a gap."""
    with ScriptedCamera(pictures) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) >= 2)
        victim = worker_of(redis, live_stack, stream)
        before = owner(redis, stream)
        process = watched(victim.pid)
        process.send_signal(how)
        wait_for(lambda: owner(redis, stream) != before, 15)
        count = len(watcher.chunks)
        wait_for(lambda: len(watcher.chunks) >= count + 2)
        if how == signal.SIGSTOP:
            process.send_signal(signal.SIGCONT)
            wait_for(lambda: "claim lost to another worker" in live_stack.logs())
        else:
            victim.wait(20)
            live_stack.start_worker()
        live_stack.client.delete(f"{URL}/{stream}")
        watcher.join(10)
        assert watcher.done
        assert watcher.starts == sorted(set(watcher.starts))
        stored: Any = redis.xrange(keys.results(watcher.request))
        indices = [int(f[b"chunk"]) for _, f in stored if b"chunk" in f]
        assert indices == sorted(set(indices))
        assert redis.xlen(keys.JOBS_DEAD) == 0


def test_a_camera_that_ends_every_worker_is_given_up(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    with ScriptedCamera(pictures) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        for _ in range(3):
            victim = worker_of(redis, live_stack, stream)
            victim.kill()
            victim.wait()
            live_stack.workers = []
            redis.hdel(keys.live(stream), "owner")
            live_stack.start_worker()
        wait_for(lambda: redis.xlen(keys.JOBS_DEAD) == 1)
        watcher.join(10)
        letters: Any = redis.xrange(keys.JOBS_DEAD)
        ((_, letter),) = letters
        assert (letter[b"lane"], letter[b"deliveries"]) == (b"live", b"4")
        assert redis.xlen(keys.jobs("live", "null")) == 0
        detail: Any = redis.hget(keys.live(stream), "detail")
        assert b"given up after 3 deliveries" in detail
        assert live_stack.client.delete(f"/streams/delete/{stream}").status_code == 200


def test_a_camera_that_ends_every_camera_process_is_given_up(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    """The worker and its other camera go on."""
    listener = told(redis)
    with ScriptedCamera(pictures) as camera, ScriptedCamera(pictures) as other:
        broken, good = add(live_stack, camera.url, other.url)
        watcher = Watcher(live_stack, broken)
        ended: set[int] = set()
        for number in range(3):
            wait_for(partial(has_played, camera, number))
            (process,) = camera_processes(live_stack) - ended
            ended.add(process)
            os.kill(process, signal.SIGSEGV)
        watcher.join(10)
        assert watcher.done
        why = b"given up after 3 processes that played the camera died: "
        wait_for(lambda: any(letter[b"error"].startswith(why) for letter in letters(redis)))
        assert "SIGSEGV" in str(redis.hget(keys.live(broken), "detail"))
        after = Watcher(live_stack, good)
        wait_for(lambda: len(after.chunks) == 1)
        said = [e["event"] for e in events_of(listener) if e["streamId"] == broken]
    assert sum("Retrying" in event and "camera process died (SIGSEGV)" in event for event in said) == 2


def letters(redis: Redis) -> list[Any]:
    """The dead letters."""
    found: Any = redis.xrange(keys.JOBS_DEAD)
    return [fields for _, fields in found]


def has_played(camera: ScriptedCamera, times: int) -> bool:
    """Whether a camera was asked to play more often than that."""
    return len(camera.plays) > times


def camera_processes(stack: Stack) -> set[int]:
    """The camera processes of a service's workers that run now."""
    found = set()
    for worker in stack.workers:
        for child in psutil.Process(worker.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "worker.live.camera_process" in child.cmdline():
                    found.add(child.pid)
    return found


@like(MODEL_PATH="null?video=2")
def test_deleting_while_a_chunk_is_in_flight(
    live_stack: Stack, redis: Redis, pictures: list[Picture]
) -> None:
    with ScriptedCamera(pictures) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) == 1)
        time.sleep(0.3)
        assert live_stack.client.delete(f"/streams/delete/{stream}").status_code == 200
        watcher.join(10)
        assert watcher.done
        assert len(watcher.chunks) == 2
        gone = live_stack.client.delete(f"/streams/delete/{stream}")
        assert (gone.status_code, gone.json()["code"]) == (400, "BadParameter")


SLOW = (("MODEL_PATH", "null?video=2"),)


@pytest.mark.parametrize(
    ("live_stack", "rule"),
    [(Kind(1, SLOW), "drop"), (Kind(1, (*SLOW, ("RTEMBED_LIVE_OVERLOAD", "block"))), "block")],
    indirect=["live_stack"],
)
def test_overload(live_stack: Stack, redis: Redis, pictures: list[Picture], rule: str) -> None:
    """The engine needs two seconds for a chunk of one: whole chunks are dropped, or the camera waits."""
    listener = told(redis)
    with ScriptedCamera(pictures, transports=("tcp",)) as camera:
        (stream,) = add(live_stack, camera.url)
        watcher = Watcher(live_stack, stream)
        wait_for(lambda: len(watcher.chunks) >= 5)
        dropped = status(live_stack, stream)["chunks_dropped"]
        gaps = [b - a for a, b in pairwise(watcher.starts)]
        events = [e["event"] for e in events_of(listener) if "overloaded" in e["event"]]
        if rule == "drop":
            assert dropped >= 2
            assert max(gaps) > 1_500 * MILLISECOND
            assert time.time_ns() - watcher.starts[-1] < 8_000 * MILLISECOND
            assert events
        else:
            assert dropped == 0
            assert all(abs(gap - 1000 * MILLISECOND) < 50 * MILLISECOND for gap in gaps)
            assert not events
