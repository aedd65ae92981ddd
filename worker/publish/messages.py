"""Results as `nv.VisionLLM` messages: what each field holds, and when it is absent.

Times are exact integers of nanoseconds until the last step. A message states times in milliseconds,
truncated, and frames in hundredths of a second.
"""

from base64 import b64encode
from collections.abc import Sequence

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from shared.assets import Asset
from shared.chunks import SECOND
from shared.fleet import ServedModel
from shared.jobs import LiveJob, TextJob, VideoJob
from shared.messages.nv_pb2 import LLM, Embedding, Frame, Query, Sensor, VisionLLM
from shared.results import Result
from shared.telemetry.redaction import without_query, without_userinfo
from shared.timestamps import format_timestamp, parse_timestamp

MESSAGE_TYPE = "vision_llm"
"""Value of the header `message_type` of every embedding message."""
MILLISECOND = 1_000_000


def message_key(request: str, chunk: int) -> str:
    """Return the Kafka key, which is unique to one message."""
    return f"{request}:{chunk}"


def build_message(model: ServedModel, job: TextJob | VideoJob | LiveJob, result: Result) -> bytes:
    """Return one result's message, serialized. Raises ValueError or OverflowError for times out of range."""
    if isinstance(job, TextJob):
        message = text_message(model, job.request, job.texts[result.chunk], result)
    else:
        message = chunk_message(model, job.request, job.assets, result, job.model)
    return message.SerializeToString()


def text_message(model: ServedModel, request: str, text: str, result: Result) -> VisionLLM:
    """Return the message of one text: no sensor, no frames, no times."""
    ids = {"requestId": request, "chunkIdx": str(result.chunk)}
    query = Query(id=message_key(request, result.chunk), params=ids, prompts={"text": text})
    llm = LLM(info=_model_info(model), queries=[query], visionEmbeddings=_embeddings(result))
    return VisionLLM(llm=llm, info=ids)


def chunk_message(
    model: ServedModel, request: str, assets: Sequence[Asset], result: Result, requested: str = ""
) -> VisionLLM:
    """Return the message of one chunk of a file, a clip of images or a live stream, also of a failed one.

    `requested` is the model that the request named.
    """
    asset = assets[0]
    sensor = sensor_id(asset)
    version = model.id or requested or "1.0"
    start, end, base = _times(asset, result)
    frames = _frames(version, sensor, result, base)
    names = _filled(sensorId=sensor, cameraId=asset.camera_id.strip())
    query = Query(
        id=message_key(request, result.chunk),
        params={
            "chunkIdx": str(result.chunk),
            "streamId": asset.id,
            "requestId": request,
            "startNtp": format_timestamp(start),
            "endNtp": format_timestamp(end),
            **names,
            **_other_name(asset, sensor),
        },
    )
    return VisionLLM(
        version=version,
        timestamp=timestamp(start),
        end=timestamp(end),
        startFrameId=frames[0].id if frames else f"{result.chunk}:start",
        endFrameId=frames[-1].id if frames else f"{result.chunk}:end",
        sensor=_sensor(asset, sensor, single=len(assets) == 1),
        llm=LLM(
            info={**_model_info(model), **_filled(requestedModel=requested), "enableReasoning": "False"},
            queries=[query],
            visionEmbeddings=_embeddings(result),
        ),
        info={
            "requestId": request,
            "chunkIdx": str(result.chunk),
            "streamId": asset.id,
            **names,
            **_facts(result),
        },
        frames=frames,
    )


def sensor_id(asset: Asset) -> str:
    """Return the camera's id for consumers: its external id, else its name, else the asset's id."""
    return asset.camera_id.strip() or asset.sensor_name.strip() or asset.id


def timestamp(ns: int) -> Timestamp:
    """Convert nanoseconds since 1970 to protobuf's form: `nanos` is never negative, even before 1970."""
    seconds, nanos = divmod(ns, SECOND)
    return Timestamp(seconds=seconds, nanos=nanos)


def frame_offset(ns: int) -> int:
    """Round a frame's time (ns) to hundredths of a second, as float seconds would be rounded."""
    return round(round(ns / SECOND, 2) * 100) * 10 * MILLISECOND


def _times(asset: Asset, result: Result) -> tuple[int, int, int]:
    """Return start, end and the zero point of frame times, in nanoseconds since 1970.

    A file without a creation time starts in 1970.
    """
    if result.wall_start is not None and result.wall_end is not None:
        start, end = _truncated(result.wall_start), _truncated(result.wall_end)
        return start, end, start - result.start
    recorded = asset.kind == "file" and asset.creation_time
    base = parse_timestamp(asset.creation_time) if recorded else 0
    return base + _truncated(result.start), base + _truncated(result.end), base


def _truncated(ns: int) -> int:
    return ns - ns % MILLISECOND


def _frames(version: str, sensor: str, result: Result, base: int) -> list[Frame]:
    return [
        Frame(
            version=version,
            id=f"{result.chunk}:{number}",
            timestamp=timestamp(base + frame_offset(time)),
            sensorId=sensor,
            info={"frameNo": str(number), "chunkIdx": str(result.chunk)},
        )
        for number, time in enumerate(result.frame_times)
    ]


def _sensor(asset: Asset, sensor: str, *, single: bool) -> Sensor:
    live = asset.path.startswith(("rtsp://", "rtsps://"))
    rate = asset.fps if single and asset.kind == "file" else None
    info = {
        **_filled(
            path=without_userinfo(asset.path),
            assetDir=asset.directory if asset.kind == "file" else "",
            url=without_query(asset.url) if asset.kind == "file" else "",
            cameraId=asset.camera_id.strip(),
            videoFps=f"{float(rate):.2f}" if rate else "",
        ),
        **_other_name(asset, sensor),
    }
    return Sensor(id=sensor, type="Camera" if live else "Video", description=asset.description, info=info)


def _other_name(asset: Asset, sensor: str) -> dict[str, str]:
    name = asset.sensor_name.strip()
    return {"sensorName": name} if name and name != sensor else {}


def _model_info(model: ServedModel) -> dict[str, str]:
    return _filled(modelId=model.id, modelApiType=model.api_type, modelOwnedBy=model.owned_by)


def _embeddings(result: Result) -> list[Embedding]:
    if result.error or not result.vector:
        return []
    return [Embedding(vector=np.frombuffer(result.vector, "<f4").tolist())]


def _facts(result: Result) -> dict[str, str]:
    facts = {"frameCount": str(len(result.frame_times))}
    for name, value in (
        ("decodeLatencyMs", result.decode_latency_ms),
        ("vlmLatencyMs", result.inference_latency_ms),
        ("chunkLatencyMs", result.chunk_latency_ms),
    ):
        if value is not None:
            facts[name] = f"{value:.3f}"
    for name, value in (
        ("queueTimeS", result.queue_time_s),
        ("processingLatencyS", result.processing_latency_s),
    ):
        if value and value > 0:
            facts[name] = f"{value:.3f}"
    return {**facts, **_filled(error=result.error, thumbnail=b64encode(result.thumbnail).decode())}


def _filled(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}
