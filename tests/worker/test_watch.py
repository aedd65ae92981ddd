"""A worker that is stuck is seen, says why, and ends to be replaced."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from shared.errors import DecodeError, InvalidFile
from shared.lifecycle import heartbeat
from shared.redis.ending import end
from worker.media.decoder_pool import DecoderPool
from worker.watch import BEAT, LOADING_PATIENCE, Watch


async def test_decoders_that_cannot_be_started_are_a_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pool = DecoderPool(slots=1)
    await pool.start()
    try:
        assert pool.trouble == ""
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/nowhere/python")
            for slot in (*pool._slots, *pool._probers):
                await slot.drop()
            with pytest.raises(DecodeError):
                await pool.probe(tmp_path / "film.mp4")
            assert "no decoder process could be started" in pool.trouble
        with pytest.raises(InvalidFile):
            await pool.probe(tmp_path / "film.mp4")
        assert pool.trouble == ""
    finally:
        await pool.close()


async def test_what_a_check_says_stops_the_worker() -> None:
    said: list[str] = []
    told = asyncio.Event()
    watch = Watch(told.set, patience=3600)  # then it would end this process
    watch.ask(lambda: "")
    watch.ask(lambda: "".join(said))
    running = asyncio.create_task(watch.run())
    await asyncio.sleep(1.5)
    assert (watch.problem, told.is_set()) == ("", False)
    said.append("the decoders are gone")
    await asyncio.wait_for(told.wait(), 10)
    assert watch.problem == "the decoders are gone"
    await end([running])


async def test_the_watchdog_hears_at_once_that_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that freezes before its next beat must not keep the patience of the loading."""
    monkeypatch.setattr(heartbeat, "_voice", None)
    hearing, speaking = os.pipe()
    try:
        heartbeat.speak_to(speaking)
        watch = Watch(lambda: None, patience=3600, stall=2.0)
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(0.1)
        assert float(os.read(hearing, 100)) == LOADING_PATIENCE + BEAT
        watch.loaded()
        assert float(os.read(hearing, 100)) == 2.0 + BEAT
        await end([running])
    finally:
        os.close(hearing)
        os.close(speaking)
