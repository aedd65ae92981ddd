"""Planning the jobs of a video request, by arithmetic alone."""

from collections.abc import Sequence

import msgspec

from gateway.api.caller import caller
from gateway.api.embedding_schemas import MediaRange, VideoRequest
from gateway.results.answers import Outline
from gateway.results.vectors import require_dimensions
from shared.assets import Asset
from shared.chunks import SECOND, Chunk, job_runs, plan_chunks
from shared.errors import BadParameter, BadParameters
from shared.fleet import ServedModel
from shared.jobs import Job, VideoJob
from shared.requests import Request
from shared.timestamps import format_timestamp, parse_timestamp


class Plan(msgspec.Struct, frozen=True):
    """The work of one request: `planned` chunks in `jobs`, of `chunk_seconds` each (0: the whole file)."""

    request: Request
    jobs: list[Job]
    assets: list[Asset]
    outline: Outline
    chunk_seconds: int = 0
    overlap_seconds: int = 0

    @property
    def planned(self) -> int:
        return self.request.planned

    def with_body(self, digest: str) -> "Plan":
        """Return the same, for a request whose HTTP body has this digest."""
        return msgspec.structs.replace(self, request=msgspec.structs.replace(self.request, body=digest))

    def as_query(self) -> "Plan":
        """Return the same, with vectors that only the caller gets: no messages are sent."""
        jobs: list[Job] = [
            msgspec.structs.replace(job, query=True) if isinstance(job, VideoJob) else job
            for job in self.jobs
        ]
        return msgspec.structs.replace(self, jobs=jobs)


def plan_video(
    request_id: str, body: VideoRequest, assets: Sequence[Asset], model: ServedModel, longest: int = 0
) -> Plan:
    """Plan the chunks of one video, or the one clip of a list of images.

    Raises BadParameters for more images than the model takes, BadParameter for an overlap that is not shorter
    than the chunk, and for a video of more than `longest` ns (0: no limit).
    """
    duration, overlap = body.chunk_duration * SECOND, body.chunk_overlap_duration * SECOND
    if assets[0].media_type == "image":
        if len(assets) > model.frames:
            raise BadParameters(f"{len(assets)} images given; the model takes at most {model.frames}")
        plan_chunks(0, 0, duration, overlap, None)  # checks the overlap, also for images
        start = end = 0
        runs = [[Chunk(0, 0, 0)]]
    else:
        asset = assets[0]
        if 0 < longest < asset.duration:
            limit, seconds = longest // SECOND, asset.duration / SECOND
            raise BadParameter(f"{asset.filename} lasts {seconds:g} s; at most {limit} s are embedded")
        start, end = _range(body.media_info, asset.duration)
        _require_dates(asset.creation_time, max(start, end))
        end_of_chunks = min(end, asset.duration)
        runs = job_runs(
            plan_chunks(start, end_of_chunks, duration, overlap, asset.fps, last_frames=asset.last_frames)
        )
    outline = Outline(
        request=request_id,
        model=model.id,
        media_type=assets[0].media_type,
        creation_time=assets[0].creation_time,
        start=start,
        end=end,
        encoding_format=body.encoding_format,
        thumbnails=body.thumbnails,
        dimensions=require_dimensions(body.dimensions, model),
    )
    request = Request(
        id=request_id,
        lane="video",
        planned=sum(map(len, runs)),
        model=model.id,
        assets=[asset.id for asset in assets],
        options=_options(body, outline),
        caller=caller.get(),
    )
    jobs: list[Job] = [
        VideoJob(
            request=request_id,
            assets=list(assets),
            chunks=run,
            model=model.id,
            on_error=body.on_error,
            thumbnails=body.thumbnails,
        )
        for run in runs
    ]
    lengths = (body.chunk_duration, body.chunk_overlap_duration)
    return Plan(request, jobs, list(assets), outline, *lengths)


def _range(wanted: MediaRange | None, duration: int) -> tuple[int, int]:
    start = wanted.start_offset if wanted else 0
    end = wanted.end_offset if wanted else None
    return start * SECOND, duration if end is None else end * SECOND


def _require_dates(creation_time: str, latest: int) -> None:
    """Raise BadParameter if `latest`, ns after `creation_time`, is after the year 9999."""
    try:
        format_timestamp(parse_timestamp(creation_time) + latest if creation_time else 0)
    except OverflowError as error:
        raise BadParameter(f"{latest // SECOND} s after {creation_time} is beyond the year 9999") from error


def _options(body: VideoRequest, outline: Outline) -> str:
    shown = {
        "stream": body.stream,
        "chunk_duration": body.chunk_duration,
        "chunk_overlap_duration": body.chunk_overlap_duration,
        "media_info": body.media_info,
        "on_error": body.on_error,
        "thumbnails": body.thumbnails,
        "outline": outline,
    }
    return msgspec.json.encode(shown).decode()
