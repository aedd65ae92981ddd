"""Profiles of video requests, written to files: how long each step took, and how busy the GPUs were.

Names and contents of the files are RT-Embed's. One task writes them after the answer; another process
draws the charts, which need matplotlib.
"""

import asyncio
import csv
import io
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import structlog

from gateway.fleet_view import FleetView
from gateway.video.planning import Plan
from shared import keys
from shared.chunks import SECOND
from shared.redis.connection import Redis, RedisError
from shared.results import Result
from shared.settings import Settings
from shared.telemetry.gpu_samples import INTERVAL, Sample, from_fields

log = structlog.get_logger(__name__)

WAITING = 64
"""Profiles that wait to be written at most; beyond that the oldest is dropped."""
KEPT = 500
"""Requests whose files are kept."""
CHARTS_TIMEOUT = 120.0
SAMPLES_LATE = 1.0
"""Seconds that the GPUs' last samples may take to arrive."""


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """When a chunk was decoded and embedded, in seconds since 1970 by Redis's clock."""

    chunk_id: int
    decode_start_time: float
    decode_end_time: float
    vlm_start_time: float
    vlm_end_time: float
    chunk_start_time: float
    chunk_end_time: float
    vlm_input_tokens: int = 0
    vlm_output_tokens: int = 0


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of `request_metrics_<id>.json`. Times are seconds."""

    num_gpus: int
    gpu_names: list[str]
    vlm_model_name: str
    vlm_batch_size: int
    input_video_duration: float
    chunk_size: float
    chunk_overlap_duration: float
    num_chunks: float
    req_start_time: float
    e2e_latency: float
    vlm_pipeline_latency: float
    decode_latency: float
    vlm_latency: float
    total_vlm_input_tokens: int
    total_vlm_output_tokens: int
    resource_usage_graph_paths: list[str]
    resource_usage_graph_plot_paths: list[str]
    all_times: list[Timing]


class Profile(msgspec.Struct, kw_only=True):
    """Measurements of a running request. `began` and `ended` are `time.monotonic()` seconds."""

    plan: Plan
    began: float
    accepted: float
    ended: float = 0.0
    timings: dict[int, Timing] = {}

    def chunk(self, result: Result) -> None:
        """Add the times of a result."""
        if (timing := timing_of(result)) is not None:
            self.timings[result.chunk] = timing


def timing_of(result: Result) -> Timing | None:
    """Return the chunk's times; None if its worker did not report when it began."""
    if result.decode_started is None:
        return None
    begun = result.decode_started
    decoded = begun + (result.decode_latency_ms or 0) / 1000
    ended = begun + (result.chunk_latency_ms or 0) / 1000
    return Timing(
        chunk_id=result.chunk,
        decode_start_time=begun,
        decode_end_time=decoded,
        vlm_start_time=ended - (result.inference_latency_ms or 0) / 1000,
        vlm_end_time=ended,
        chunk_start_time=begun,
        chunk_end_time=ended,
    )


class Profiler:
    """Writes the files of every video request, if profiling is switched on."""

    def __init__(self, redis: Redis, view: FleetView, settings: Settings) -> None:
        self._redis, self._view, self._settings = redis, view, settings
        self._folder = settings.profile_dir
        self._waiting: deque[Profile] = deque(maxlen=WAITING)
        self._changed = asyncio.Event()
        self.enabled = settings.profiling

    def begin(self, plan: Plan, began: float, accepted: float) -> Profile | None:
        """Return a profile for a request; None if profiling is switched off."""
        return Profile(plan=plan, began=began, accepted=accepted) if self.enabled else None

    def hand_in(self, profile: Profile) -> None:
        """Queue the profile of a request that has ended, to be written."""
        if len(self._waiting) == WAITING:
            log.warning(
                "profile dropped: too many wait to be written", request_id=self._waiting[0].plan.request.id
            )
        self._waiting.append(profile)
        self._changed.set()

    async def run(self) -> None:
        """Write until cancelled."""
        if self.enabled and not find_spec("matplotlib"):
            log.error("profiles have no charts: matplotlib is missing; run pip install 'rt-embed[profiling]'")
        while self.enabled:
            await self._changed.wait()
            self._changed.clear()
            while self._waiting:
                profile = self._waiting.popleft()
                try:
                    await self._write(profile)
                except (OSError, RedisError) as error:
                    request_id = profile.plan.request.id
                    log.error("profile not written", request_id=request_id, error=str(error))

    async def _write(self, profile: Profile) -> None:
        until_late = profile.ended + SAMPLES_LATE - time.monotonic()
        if any(worker.gpu for worker in self._view.fleet.workers):
            await asyncio.sleep(max(0.0, until_late))
        seconds, microseconds = await self._redis.time()
        clock = seconds + microseconds / 1e6 - time.monotonic()
        samples = await self._samples(profile.began + clock, profile.ended + clock)
        files = ProfileFiles(self._folder, profile.plan.request.id)
        await asyncio.to_thread(files.write_usage, profile, samples, profile.began + clock)
        plots = await self._draw(files)
        metrics = self._metrics(profile, samples, profile.began + clock, files, plots)
        await asyncio.to_thread(files.write_metrics, metrics)
        log.info("profile written", request_id=profile.plan.request.id, file=str(files.metrics))

    async def _samples(self, start: float, end: float) -> list[Sample]:
        """Return the GPUs' samples between two seconds of Redis's clock."""
        entries: Any = await self._redis.xrange(
            keys.GPU_SAMPLES, f"{int(start * 1000)}", f"{int(end * 1000) + 1}"
        )
        return [sample for entry_id, fields in entries for sample in from_fields(entry_id, fields)]

    async def _draw(self, files: "ProfileFiles") -> list[Path]:
        """Draw the charts and return the paths of those that exist."""
        if not find_spec("matplotlib"):
            return []
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.video.charts", *map(str, files.usage), *map(str, files.plots),
            stdin=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(CHARTS_TIMEOUT):
                await process.wait()
        except BaseException as error:
            process.kill()
            await process.wait()
            if not isinstance(error, TimeoutError):
                raise
        return await asyncio.to_thread(lambda: [path for path in files.plots if path.exists()])

    def _metrics(
        self,
        profile: Profile,
        samples: Sequence[Sample],
        start: float,
        files: "ProfileFiles",
        plots: list[Path],
    ) -> Metrics:
        plan, workers = profile.plan, [w for w in self._view.fleet.workers if w.state == "ready"]
        names = [name for _, name in gpus_of(samples)] or [w.gpu for w in workers if w.gpu]
        whole = sum(asset.duration for asset in plan.assets)
        embedded = max(0, min(plan.outline.end, whole) - plan.outline.start) / SECOND
        timings = [profile.timings[index] for index in sorted(profile.timings)]
        return Metrics(
            num_gpus=len(names),
            gpu_names=names,
            vlm_model_name=plan.outline.model,
            vlm_batch_size=max((w.batch_size for w in workers), default=0),
            input_video_duration=whole / SECOND,
            chunk_size=plan.chunk_seconds,
            chunk_overlap_duration=plan.overlap_seconds,
            num_chunks=embedded / plan.chunk_seconds if plan.chunk_seconds else 1,
            req_start_time=start,
            e2e_latency=profile.ended - profile.began,
            vlm_pipeline_latency=profile.ended - profile.accepted,
            decode_latency=_spanned((t.decode_start_time, t.decode_end_time) for t in timings),
            vlm_latency=_spanned((t.vlm_start_time, t.vlm_end_time) for t in timings),
            total_vlm_input_tokens=0,
            total_vlm_output_tokens=0,
            resource_usage_graph_paths=[str(path) for path in files.usage],
            resource_usage_graph_plot_paths=[str(path) for path in plots],
            all_times=timings,
        )


def _spanned(times: Iterable[tuple[float, float]]) -> float:
    """Return the time from the earliest start to the latest end."""
    pairs = list(times)
    return max(end for _, end in pairs) - min(start for start, _ in pairs) if pairs else 0.0


def gpus_of(samples: Iterable[Sample]) -> list[tuple[tuple[str, int], str]]:
    """Return the GPUs in the samples, by host and number, with their names, in order."""
    return sorted({((s.host, s.index), s.name) for s in samples})


class ProfileFiles:
    """The files of one request."""

    def __init__(self, folder: Path, request_id: str) -> None:
        self._folder = folder
        self.answers = folder / f"vlm_testdata_{request_id}.txt"
        self.usage = [folder / f"nvdec_usage_{request_id}.csv", folder / f"gpu_usage_{request_id}.csv"]
        self.plots = [folder / f"plot_{kind}_{request_id}.png" for kind in ("nvdec", "gpu", "gpu_mem")]
        self.metrics = folder / f"request_metrics_{request_id}.json"

    def write_usage(self, profile: Profile, samples: Sequence[Sample], start: float) -> None:
        """Write the answers and usage files, and remove the oldest requests' files. Blocks."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._remove_oldest()
        chunks = "".join(f'{index},""\n' for index in range(profile.plan.planned))
        self.answers.write_text(f"Chunk_ID,Answer\n{chunks}")
        decoders, gpus = usage_tables(samples, start)
        self.usage[0].write_text(_csv(decoders))
        self.usage[1].write_text(_csv(gpus))

    def write_metrics(self, metrics: Metrics) -> None:
        """Write the metrics file, which marks the profile as complete. Blocks."""
        temporary = self.metrics.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(metrics)))
        temporary.rename(self.metrics)

    def _remove_oldest(self) -> None:
        known = sorted(self._folder.glob("request_metrics_*.json"), key=lambda path: path.stat().st_mtime)
        for metrics in known[: max(0, len(known) - KEPT + 1)]:
            old = ProfileFiles(self._folder, metrics.stem.removeprefix("request_metrics_"))
            for path in (old.answers, *old.usage, *old.plots, old.metrics):
                path.unlink(missing_ok=True)


Table = list[list[object]]


def usage_tables(samples: Sequence[Sample], start: float) -> tuple[Table, Table]:
    """Return the rows of the two CSV files: decoders, then computing and memory, in percent, every 0.2 s.

    GPUs are numbered through the fleet. Without GPUs there is only the header.
    """
    gpus = [gpu for gpu, _ in gpus_of(samples)]
    numbers = range(len(gpus))
    decoders: Table = [["elapsed_time", *(f"GPU{i}_AvgNVDEC" for i in numbers)]]
    usage: Table = [
        ["elapsed_time", *(f"GPU{i}_Usage" for i in numbers), *(f"GPU{i}_MemUsage" for i in numbers)]
    ]
    steps: dict[int, dict[tuple[str, int], Sample]] = {}
    for sample in samples:
        steps.setdefault(max(0, round((sample.time - start) / INTERVAL)), {})[sample.host, sample.index] = (
            sample
        )
    for step in sorted(steps):
        found = [steps[step].get(gpu) for gpu in gpus]
        elapsed = round(step * INTERVAL, 1)
        decoders.append([elapsed, *(s.decoder if s else None for s in found)])
        usage.append(
            [elapsed, *(s.usage if s else None for s in found), *(s.memory if s else None for s in found)]
        )
    return decoders, usage


def _csv(rows: Table) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
