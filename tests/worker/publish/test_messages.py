"""Every field of a message, read with classes that do not come from the project's generated code."""

import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.assets import Asset
from shared.chunks import SECOND
from shared.fleet import ServedModel
from shared.jobs import TextJob, VideoJob
from shared.results import Result
from tests.proto import schema
from tests.support import served_model
from worker.publish.messages import build_message, frame_offset, message_key, timestamp

VisionLLM: Any = schema.classes()["VisionLLM"]
MODEL = served_model(id="cosmos-embed1-448p", owned_by="nvidia", dimension=3)
REQUEST = "8d5c7f9e-0000-4000-8000-000000000001"
ASSET_ID = "8d5c7f9e-0000-4000-8000-0000000000aa"
VECTOR = struct.pack("<3f", 0.5, -0.25, 0.125)
FILE = Asset(
    id=ASSET_ID,
    path=f"/tmp/assets/{ASSET_ID}/bikes.mp4",
    directory=f"/tmp/assets/{ASSET_ID}",
    frame_rate="30000/1001",
    duration=60 * SECOND,
)
DONE = Result(
    chunk=2,
    start=20_000_900_000,
    end=30_000_000_000,
    vector=VECTOR,
    frame_times=[20_006_000_000, 21_254_900_000],
    decode_latency_ms=12.3456,
    inference_latency_ms=20.0,
    chunk_latency_ms=33.3333,
    queue_time_s=0.5,
    processing_latency_s=0.0333,
)


def video(*assets: Asset, model: str = "") -> VideoJob:
    return VideoJob(request=REQUEST, assets=list(assets), chunks=[], model=model)


def build(job: TextJob | VideoJob, result: Result = DONE, model: ServedModel = MODEL) -> Any:
    return VisionLLM.FromString(build_message(model, job, result))


def with_asset(**changes: Any) -> Any:
    return build(video(Asset(**{"id": ASSET_ID, "path": "/videos/a.mp4", **changes})))


def seconds(stamp: Any) -> Decimal:
    return Decimal(stamp.seconds) + Decimal(stamp.nanos) / SECOND


# The whole message of a chunk ---------------------------------------------------------------------------


def test_top_level_of_a_file_chunk() -> None:
    message = build(video(FILE))
    assert message.version == "cosmos-embed1-448p"
    assert (message.timestamp.seconds, message.timestamp.nanos) == (20, 0)  # truncated, not rounded
    assert (message.end.seconds, message.end.nanos) == (30, 0)
    assert (message.startFrameId, message.endFrameId) == ("2:0", "2:1")
    assert message.info == {
        "requestId": REQUEST,
        "chunkIdx": "2",
        "streamId": ASSET_ID,
        "sensorId": ASSET_ID,
        "frameCount": "2",
        "decodeLatencyMs": "12.346",
        "vlmLatencyMs": "20.000",
        "chunkLatencyMs": "33.333",
        "queueTimeS": "0.500",
        "processingLatencyS": "0.033",
    }


def test_sensor_of_an_upload() -> None:
    sensor = build(video(FILE)).sensor
    assert (sensor.id, sensor.type, sensor.description) == (ASSET_ID, "Video", "")
    assert sensor.info == {"path": FILE.path, "assetDir": FILE.directory, "videoFps": "29.97"}
    assert not sensor.HasField("location")
    assert not sensor.HasField("coordinate")


def test_query_and_vector() -> None:
    llm = build(video(FILE, model="Cosmos-Embed1-448p")).llm
    assert llm.info == {
        "modelId": "cosmos-embed1-448p",
        "modelApiType": "custom",
        "modelOwnedBy": "nvidia",
        "requestedModel": "Cosmos-Embed1-448p",
        "enableReasoning": "False",
    }
    (query,) = llm.queries
    assert query.id == f"{REQUEST}:2"
    assert query.params == {
        "chunkIdx": "2",
        "streamId": ASSET_ID,
        "requestId": REQUEST,
        "startNtp": "1970-01-01T00:00:20.000Z",
        "endNtp": "1970-01-01T00:00:30.000Z",
        "sensorId": ASSET_ID,
    }
    assert (dict(query.prompts), query.response, list(query.embeddings)) == ({}, "", [])
    (embedding,) = llm.visionEmbeddings
    assert (list(embedding.vector), dict(embedding.info)) == ([0.5, -0.25, 0.125], {})


def test_frames_carry_their_time_rounded_to_hundredths() -> None:
    first, second = build(video(FILE)).frames
    assert (first.version, first.id, first.sensorId) == ("cosmos-embed1-448p", "2:0", ASSET_ID)
    assert first.info == {"frameNo": "0", "chunkIdx": "2"}
    assert second.info == {"frameNo": "1", "chunkIdx": "2"}
    assert (seconds(first.timestamp), seconds(second.timestamp)) == (Decimal("20.01"), Decimal("21.25"))
    assert not first.HasField("segmentation")


def test_an_unnamed_model_gives_no_requested_model() -> None:
    assert "requestedModel" not in build(video(FILE)).llm.info


def test_the_version_falls_back_to_the_requested_model_then_to_one() -> None:
    nameless = ServedModel(**{**{f: getattr(MODEL, f) for f in MODEL.__struct_fields__}, "id": ""})
    assert build(video(FILE, model="asked-for"), model=nameless).version == "asked-for"
    message = build(video(FILE), model=nameless)
    assert message.version == message.frames[0].version == "1.0"
    assert "modelId" not in message.llm.info


# Who the sensor is --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("camera", "name", "sensor", "shown"),
    [
        ("", "", ASSET_ID, None),
        ("", "  door ", "door", None),
        (" cam-7 ", "", "cam-7", None),
        ("cam-7", "door", "cam-7", "door"),
        ("door", "door", "door", None),
    ],
)
def test_sensor_id_is_the_first_name_that_is_not_empty(
    camera: str, name: str, sensor: str, shown: str | None
) -> None:
    message = with_asset(camera_id=camera, sensor_name=name)
    places = [message.sensor.info, message.llm.queries[0].params]
    assert message.sensor.id == message.frames[0].sensorId == message.info["sensorId"] == sensor
    assert [place.get("sensorName") for place in places] == [shown, shown]
    for place in [*places, message.info]:
        assert place.get("cameraId") == (camera.strip() or None)


def test_description_and_source_address() -> None:
    sensor = with_asset(description="Back door", url="https://user:pw@example.com/a.mp4").sensor
    assert sensor.description == "Back door"
    assert sensor.info == {"path": "/videos/a.mp4", "url": "https://example.com/a.mp4"}


def test_frame_rate_is_told_only_for_a_single_file() -> None:
    image = Asset(id=ASSET_ID, media_type="image", path="/a.png")
    assert "videoFps" not in build(video(image)).sensor.info
    assert "videoFps" not in build(video(FILE, FILE)).sensor.info
    assert with_asset(frame_rate="25").sensor.info["videoFps"] == "25.00"


def test_images_are_one_clip_at_time_zero() -> None:
    images = [Asset(id=f"image-{n}", media_type="image", path=f"/{n}.png") for n in range(3)]
    message = build(video(*images), Result(chunk=0, vector=VECTOR, frame_times=[0, 0, 0]))
    assert (message.sensor.id, message.sensor.type) == ("image-0", "Video")
    assert [frame.id for frame in message.frames] == ["0:0", "0:1", "0:2"]
    assert [seconds(frame.timestamp) for frame in message.frames] == [0, 0, 0]
    assert message.HasField("timestamp")
    assert seconds(message.timestamp) == seconds(message.end) == 0


# Times --------------------------------------------------------------------------------------------------


def test_creation_time_makes_every_time_absolute() -> None:
    message = build(video(Asset(id=ASSET_ID, path="/a.mp4", creation_time="2024-06-09T18:32:11.123Z")))
    assert seconds(message.timestamp) == Decimal("1717957951.123")  # 18:32:11.123 and 20.000 s
    assert seconds(message.end) == Decimal("1717957961.123")
    assert seconds(message.frames[1].timestamp) == Decimal("1717957952.373")
    params = message.llm.queries[0].params
    assert (params["startNtp"], params["endNtp"]) == ("2024-06-09T18:32:31.123Z", "2024-06-09T18:32:41.123Z")


LIVE = Asset(
    id=ASSET_ID,
    kind="stream",
    path="rtsp://admin:s3cret@10.0.0.7:554/live",
    directory="/tmp/assets/never",
    url="rtsp://admin:s3cret@10.0.0.7:554/live",
    description="Gate 4",
    camera_id="gate-4",
    creation_time="2024-01-01T00:00:00.000Z",
    frame_rate="30",
)
LIVE_RESULT = Result(
    chunk=17,
    start=170 * SECOND,
    end=178_750_000_000,
    wall_start=1_717_957_951_123_999_999,
    wall_end=1_717_957_959_873_999_999,
    vector=VECTOR,
    frame_times=[170 * SECOND, 171_250_000_000],
    decode_latency_ms=8750.0,
    processing_latency_s=8.9,
)


def test_a_live_chunk_tells_the_wall_clock() -> None:
    message = build(video(LIVE), LIVE_RESULT)
    assert seconds(message.timestamp) == Decimal("1717957951.123")
    assert seconds(message.end) == Decimal("1717957959.873")
    stamps = [seconds(frame.timestamp) for frame in message.frames]
    assert stamps == [Decimal("1717957951.123"), Decimal("1717957952.373")]
    params = message.llm.queries[0].params
    assert (params["startNtp"], params["endNtp"]) == ("2024-06-09T18:32:31.123Z", "2024-06-09T18:32:39.873Z")


def test_a_live_sensor_is_a_camera_without_credentials_folder_or_frame_rate() -> None:
    message = build(video(LIVE), LIVE_RESULT)
    assert (message.sensor.type, message.sensor.description) == ("Camera", "Gate 4")
    assert message.sensor.info == {"path": "rtsp://10.0.0.7:554/live", "cameraId": "gate-4"}
    assert b"s3cret" not in message.SerializeToString()
    assert "queueTimeS" not in message.info
    assert message.info["processingLatencyS"] == "8.900"


def test_a_live_frame_after_weeks_still_has_the_right_time() -> None:
    late = 30 * 86_400 * SECOND
    result = Result(
        chunk=1, start=late, end=late, wall_start=late, wall_end=late, frame_times=[late + SECOND]
    )
    assert seconds(build(video(LIVE), result).frames[0].timestamp) == 30 * 86_400 + 1


# What is left out ---------------------------------------------------------------------------------------


def test_a_failed_chunk_has_its_error_and_nothing_else() -> None:
    failed = Result(chunk=4, start=40 * SECOND, end=50 * SECOND, error="Decode error: truncated")
    message = build(video(FILE), failed)
    assert message.info["error"] == "Decode error: truncated"
    assert message.info["frameCount"] == "0"
    assert (message.startFrameId, message.endFrameId) == ("4:start", "4:end")
    assert (list(message.llm.visionEmbeddings), list(message.frames)) == ([], [])
    assert seconds(message.timestamp) == 40
    assert not {"decodeLatencyMs", "vlmLatencyMs", "queueTimeS"} & set(message.info)


def test_a_duration_of_zero_is_told_as_latency_but_not_as_waiting_time() -> None:
    result = Result(
        chunk=0,
        vector=VECTOR,
        decode_latency_ms=0.0,
        inference_latency_ms=0.0,
        queue_time_s=0.0,
        processing_latency_s=-0.5,
    )
    info = build(video(FILE), result).info
    assert (info["decodeLatencyMs"], info["vlmLatencyMs"]) == ("0.000", "0.000")
    assert not {"chunkLatencyMs", "queueTimeS", "processingLatencyS"} & set(info)


# Texts --------------------------------------------------------------------------------------------------


def test_a_text_message_has_ids_model_text_and_vector() -> None:
    job = TextJob(request=REQUEST, texts=["a red car", "snow ❄"])
    message = build(job, Result(chunk=1, vector=VECTOR, queue_time_s=1.0))
    ids = {"requestId": REQUEST, "chunkIdx": "1"}
    assert message.info == ids
    assert message.llm.info == {
        "modelId": "cosmos-embed1-448p",
        "modelApiType": "custom",
        "modelOwnedBy": "nvidia",
    }
    (query,) = message.llm.queries
    assert (query.id, dict(query.params), dict(query.prompts)) == (f"{REQUEST}:1", ids, {"text": "snow ❄"})
    assert list(message.llm.visionEmbeddings[0].vector) == [0.5, -0.25, 0.125]
    assert [field.name for field, _ in message.ListFields()] == ["llm", "info"]


def test_the_key_names_request_and_chunk() -> None:
    assert message_key("r", 12) == "r:12"


# Arithmetic ---------------------------------------------------------------------------------------------

NS = st.integers(-(10**18), 250_000_000_000 * SECOND)


@given(NS)
def test_timestamps_are_exact(ns: int) -> None:
    stamp = timestamp(ns)
    assert stamp.seconds * SECOND + stamp.nanos == ns
    assert 0 <= stamp.nanos < SECOND


@given(st.integers(0, 10**17))
def test_frame_times_are_the_float_rounded_to_two_decimals(ns: int) -> None:
    spoken = Decimal(repr(round(ns / 1e9, 2)))
    assert Decimal(frame_offset(ns)) / SECOND == spoken
    assert frame_offset(ns) % 10_000_000 == 0


@given(st.integers(0, 86_400 * SECOND), st.integers(0, 2**40))
def test_times_of_a_chunk_are_truncated_and_agree_with_their_text(start: int, length: int) -> None:
    result = Result(chunk=0, start=start, end=start + length, vector=VECTOR)
    message = build(video(Asset(id=ASSET_ID, path="/a", creation_time="2000-01-01T00:00:00.999Z")), result)
    base = Decimal("946684800.999")
    assert seconds(message.timestamp) - base == Decimal(start // 10**6) / 1000
    assert seconds(message.end) - base == Decimal((start + length) // 10**6) / 1000
    params = message.llm.queries[0].params
    assert params["startNtp"].endswith(f"{message.timestamp.nanos // 10**6:03d}Z")
    assert params["endNtp"].endswith(f"{message.end.nanos // 10**6:03d}Z")


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_vectors_arrive_bit_for_bit(vector: list[float]) -> None:
    message = build(video(FILE), Result(chunk=0, vector=struct.pack(f"<{len(vector)}f", *vector)))
    assert list(message.llm.visionEmbeddings[0].vector) == vector
