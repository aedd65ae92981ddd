"""Search over HTTP, on a real index."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from struct import pack
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
import pytest

from search.chunk_messages import IndexedAsset, IndexedChunk, read_chunk
from search.deletions import mark_deleted, remove_marked
from search.index_writer import IndexWriter
from search.neighbour_index import build_missing
from search.schema import migrate
from shared import keys
from shared.assets import NEW_ASSETS, Asset
from shared.chunks import SECOND
from shared.redis.connection import Redis, script
from shared.results import Result
from shared.search import database
from shared.search.database import Connection
from shared.search.indexer_records import IndexerRecord, announce_indexer
from shared.settings import Settings, load
from tests.gateway.conftest import MODEL, Gateway, Serve, StandIn
from tests.search.chunk_samples import chunk_message, film, unit_vectors
from tests.support import PostgresServer, until
from worker.publish.publisher import Publisher

JPEG = b"\xff\xd8\xff a picture"
VECTORS = unit_vectors(60, 4)
CAMERA = Asset(
    id="5b1c0000-0000-0000-0000-000000000001", kind="stream", path="rtsp://camera/1", camera_id="gate",
    description="The gate",
)  # fmt: skip


@pytest.fixture
def searched(settings: Settings, search_url: str) -> Settings:
    """Settings of a gateway with an index."""
    return replace(settings, search_url=search_url, search_timeout=3.0)


@pytest.fixture
async def index(searched: Settings) -> AsyncIterator[Connection]:
    """A connection to the index."""
    connection = await database.connect(searched)
    await migrate(connection)
    yield connection
    await connection.close()


def chunk(asset: Asset, number: int, vector: np.ndarray, **fields: Any) -> IndexedChunk:
    found = read_chunk(chunk_message(asset, number, vector, model=MODEL))
    assert found
    return msgspec.structs.replace(found, **fields)


async def write(connection: Connection, *chunks: IndexedChunk, known: Any = None) -> None:
    writer = IndexWriter(connection)
    for one in chunks:
        await writer.check(one)
    await writer.write(chunks, known or {})


@pytest.fixture
async def filled(index: Connection) -> Connection:
    """Three films of 20 chunks: film 0 without a creation time, film 1 with a picture for each chunk, film 2
    recorded in 2024; and a camera with one chunk at noon."""
    films = [film(0), film(1), film(2, creation_time="2024-06-09T18:00:00.000Z")]
    pictures = [None, JPEG, None]
    chunks = [
        chunk(films[i // 20], i % 20, vector, thumbnail=pictures[i // 20]) for i, vector in enumerate(VECTORS)
    ]
    base = 1_717_956_000 * SECOND
    known = {
        asset.id: IndexedAsset(
            id=asset.id, kind="file", media_type="video", name=asset.filename, sensor=asset.id, base=start
        )
        for asset, start in zip(films, (0, 0, base), strict=True)
    }
    await write(index, *chunks, known=known)
    noon = 1_717_934_400 * SECOND
    live = chunk(CAMERA, 7, -VECTORS[0], start=noon, end=noon + 10 * SECOND)
    await write(index, live)
    return index


async def find(gateway: Gateway, status: int = 200, **body: Any) -> Any:
    answer = await gateway.client.post("/search", json={"model": "null", **body})
    assert answer.status_code == status, answer.text
    return answer.json()


def places(answer: Any) -> list[tuple[str, int]]:
    return [(hit["asset"], hit["chunk"]) for hit in answer["hits"]]


@pytest.mark.usefixtures("filled")
async def test_the_nearest_chunks_come_first(serve: Serve, searched: Settings) -> None:
    question = unit_vectors(1, 4, seed=9)[0]
    async with serve(searched) as gateway:
        answer = await find(gateway, vector=question.tolist(), top_k=5, assets=[film(i).id for i in range(3)])
    scores = VECTORS @ question
    best = np.argsort(-scores)[:5]
    assert places(answer) == [(film(i // 20).id, i % 20) for i in best]
    assert [hit["score"] for hit in answer["hits"]] == pytest.approx(scores[best].tolist(), abs=2e-3)
    assert answer["model"] == "null"


@pytest.mark.usefixtures("filled")
async def test_a_hit_says_where_it_is(serve: Serve, searched: Settings) -> None:
    async with serve(searched) as gateway:
        answer = await find(gateway, vector=VECTORS[43].tolist(), top_k=1)
        camera = await find(gateway, vector=(-VECTORS[0]).tolist(), top_k=1, cameras=["gate"])
        plain = await find(gateway, vector=VECTORS[25].tolist(), top_k=1)
    assert answer["hits"] == [
        {
            "chunk": 3, "start": 30.0, "end": 40.0, "start_time": "2024-06-09T18:00:30.000Z",
            "end_time": "2024-06-09T18:00:40.000Z", "request": "request", "thumbnail": None,
            "asset": film(2).id, "name": "film2.mp4", "kind": "file", "media_type": "video",
            "camera": film(2).id, "chunks": [3], "score": pytest.approx(1, abs=1e-3),
        }
    ]  # fmt: skip
    (hit,) = camera["hits"]
    assert (hit["name"], hit["kind"], hit["camera"]) == ("The gate", "stream", "gate")
    assert (hit["start"], hit["start_time"]) == (None, "2024-06-09T12:00:00.000Z")
    (hit,) = plain["hits"]
    assert (hit["start"], hit["start_time"], hit["end_time"]) == (50.0, None, None)
    assert base64.b64decode(hit["thumbnail"]) == JPEG


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"assets": [film(1).id]}, {film(1).id}),
        ({"assets": [film(1).id, CAMERA.id]}, {film(1).id, CAMERA.id}),
        ({"assets": ["nobody"]}, set()),
        ({"cameras": ["gate"]}, {CAMERA.id}),
        ({"cameras": [film(0).id, "gate"]}, {film(0).id, CAMERA.id}),
        ({"start_time": "2024-06-09T18:00:00.000Z"}, {film(2).id}),
        ({"start_time": "1971-01-01T00:00:00.000Z", "end_time": "2024-06-09T12:00:05.000Z"}, {CAMERA.id}),
        ({"end_time": "1970-01-01T00:00:10.000Z"}, {film(0).id, film(1).id}),
        ({"min_score": 0.999}, {film(0).id}),
    ],
)
async def test_only_chunks_count_that_were_asked_for(
    serve: Serve, searched: Settings, filters: dict[str, Any], expected: set[str]
) -> None:
    async with serve(searched) as gateway:
        answer = await find(gateway, vector=VECTORS[0].tolist(), top_k=100, **filters)
    assert {hit["asset"] for hit in answer["hits"]} == expected


@pytest.mark.usefixtures("filled")
async def test_a_time_range_takes_what_lies_in_it_partly(serve: Serve, searched: Settings) -> None:
    between: dict[str, Any] = {
        "start_time": "2024-06-09T18:00:20.000Z",
        "end_time": "2024-06-09T18:00:40.001Z",
    }
    async with serve(searched) as gateway:
        answer = await find(gateway, vector=VECTORS[0].tolist(), top_k=100, **between)
    assert sorted(hit["chunk"] for hit in answer["hits"]) == [2, 3, 4]


@pytest.mark.usefixtures("filled")
async def test_more_like_a_chunk_leaves_that_chunk_out(serve: Serve, searched: Settings) -> None:
    async with serve(searched) as gateway:
        answer = await find(gateway, like={"asset": film(1).id, "chunk": 5}, top_k=3)
        missing = await find(gateway, 404, like={"asset": film(1).id, "chunk": 50})
    scores = VECTORS @ VECTORS[25]
    best = [i for i in np.argsort(-scores) if i != 25][:3]
    assert places(answer) == [(film(i // 20).id, i % 20) for i in best]
    assert missing["message"] == f"no chunk 50 of {film(1).id} is in the index"


async def test_neighbours_can_be_one_hit(serve: Serve, searched: Settings, index: Connection) -> None:
    a, b = np.eye(4, dtype=np.float32)[:2]
    near = (a + 0.1 * b) / np.linalg.norm(a + 0.1 * b)
    await write(index, *(chunk(film(), i, v) for i, v in enumerate([b, near, a, near, b, b, a])))
    async with serve(searched) as gateway:
        answer = await find(gateway, vector=a.tolist(), merge=True, min_score=0.9)
    assert [(hit["chunk"], hit["chunks"]) for hit in answer["hits"]] == [(2, [1, 2, 3]), (6, [6])]


@pytest.mark.usefixtures("filled")
async def test_a_sentence_is_embedded_without_a_message(
    serve: Serve, searched: Settings, redis: Redis, stand_in: StandIn
) -> None:
    spoken = replace(searched, message_bus="redis", text_messages=True)
    publisher = Publisher(redis, spoken)
    publisher.model = MODEL
    async with serve(spoken) as gateway:
        asking = asyncio.create_task(find(gateway, text="a dog", top_k=1))
        job = await stand_in.job("text")
        await publisher.publish(job, [Result(chunk=0, vector=VECTORS[31].astype("<f4").tobytes())])
        answer = await asking
    assert (job.texts, job.query) == (["a dog"], True)
    assert places(answer) == [(film(1).id, 11)]
    assert await redis.xlen(keys.OUTBOX) == 0


@pytest.mark.usefixtures("filled")
async def test_a_picture_is_embedded_without_a_message(
    serve: Serve, searched: Settings, redis: Redis, stand_in: StandIn
) -> None:
    picture = Asset(id="5b1c0000-0000-0000-0000-0000000000aa", media_type="image", path="/p.jpg", probed=True)
    video = Asset(id="5b1c0000-0000-0000-0000-0000000000bb", path="/v.mp4", probed=True)
    for asset in (picture, video):
        await script(redis, "register_asset")(
            keys=[keys.asset(asset.id), keys.ASSETS, keys.AGED_OUT_ASSETS, keys.ARRIVING_ASSETS],
            args=[asset.id, "token", *NEW_ASSETS.fields(asset)],
        )
    async with serve(replace(searched, message_bus="redis")) as gateway:
        asking = asyncio.create_task(find(gateway, image=picture.id, top_k=1))
        job = await stand_in.job("video")
        publisher = Publisher(redis, replace(searched, message_bus="redis"))
        publisher.model = MODEL
        await publisher.publish(job, [Result(chunk=0, vector=VECTORS[2].astype("<f4").tobytes())])
        assert places(await asking) == [(film(0).id, 2)]
        refused = await find(gateway, 400, image=video.id)
        unknown = await find(gateway, 400, image="nobody")
    assert job.query
    assert await redis.xlen(keys.OUTBOX) == 0
    assert refused["message"].endswith("is a video: search for one of its chunks with `like`")
    assert unknown["code"] == "BadParameter"


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "('body', 'text'): Give one of text, image, vector and like, not none"),
        ({"text": "a", "vector": [1.0]}, "('body', 'vector'): Give one of text, image, vector and like"),
        ({"vector": []}, "('body', 'vector'): Must have at least 1 items"),
        ({"vector": [0, 0, 0, 0]}, "('body', 'vector'): Must not be all zeros"),
        ({"vector": [1e9, 0, 0, 0]}, "('body', 'vector'): Must have values from -65504 to 65504"),
        ({"text": ""}, "('body', 'text'): Must have at least 1 characters"),
        ({"image": "data:video/mp4;base64,AAAA"}, "('body', 'image'): Must be a picture"),
        ({"text": "a", "top_k": 0}, "('body', 'top_k'): Must be at least 1"),
        ({"text": "a", "top_k": 1001}, "('body', 'top_k'): Must be at most 1000 with thumbnails"),
        ({"text": "a", "start_time": "2024-13-09T18:00:00.000Z"}, "('body', 'start_time'): 2024-13-09T"),
        ({"text": "a", "colour": 1}, "('body', 'colour'): No such field"),
        ({"text": "a", "assets": ["a b"]}, "('body', 'assets', 0): Must be a UUID or, for a live"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    serve: Serve, searched: Settings, body: dict[str, Any], message: str
) -> None:
    async with serve(searched) as gateway:
        refused = await find(gateway, 422, **body)
    assert refused["message"].startswith(message)


@pytest.mark.usefixtures("filled", "worker")
async def test_other_models_have_other_vectors(serve: Serve, searched: Settings) -> None:
    async with serve(searched) as gateway:
        short = await find(gateway, 400, vector=[1.0, 0.0])
        assert await find(gateway, model="unheard-of", vector=[1.0, 0.0]) == {
            "model": "unheard-of", "hits": [],
        }  # fmt: skip
        wrong = await find(gateway, 400, model="unheard-of", text="a dog")
    assert short["message"] == "null makes vectors of 4 values, not 2"
    assert "No such model unheard-of" in wrong["message"]


@pytest.mark.usefixtures("worker")
async def test_without_an_index_clients_are_told_how_to_get_one(serve: Serve, settings: Settings) -> None:
    async with serve(settings) as gateway:
        answer = await find(gateway, 501, text="a dog")
        state = await gateway.client.get("/search")
    assert answer["code"] == "NotImplemented"
    assert "rt-embed up --search" in answer["message"]
    assert "RTEMBED_SEARCH_URL" in answer["message"]
    assert state.status_code == 501


async def test_an_index_that_no_indexer_has_made_is_away(serve: Serve, searched: Settings) -> None:
    async with serve(searched) as gateway:
        answer = await find(gateway, 503, vector=[1.0, 0, 0, 0])
    assert answer["message"] == "the search index is empty: no indexer has started yet"


async def test_an_index_that_is_made_later_is_searched_at_once(serve: Serve, searched: Settings) -> None:
    async with serve(searched) as gateway:
        await find(gateway, 503, vector=[1.0, 0, 0, 0])
        connection = await database.connect(searched)
        await migrate(connection)
        await connection.close()
        connection = await database.connect(searched)  # which knows the types that there are now
        await write(connection, chunk(film(1), 0, VECTORS[0]))
        await connection.close()
        (hit,) = (await find(gateway, vector=VECTORS[0].tolist()))["hits"]
    assert hit["asset"] == film(1).id


@pytest.mark.usefixtures("filled")
async def test_a_deleted_file_is_in_no_answer_at_once(
    serve: Serve, searched: Settings, redis: Redis, filled: Connection
) -> None:
    for number in range(2):
        await script(redis, "register_asset")(
            keys=[keys.asset(film(number).id), keys.ASSETS, keys.AGED_OUT_ASSETS, keys.ARRIVING_ASSETS],
            args=[film(number).id, "token", *NEW_ASSETS.fields(film(number, directory=""))],
        )

    async def found(gateway: Gateway) -> set[str]:
        answer = await find(gateway, vector=VECTORS[0].tolist(), top_k=100)
        return {hit["asset"] for hit in answer["hits"]}

    async with serve(searched) as gateway:
        assert film(0).id in await found(gateway)
        assert (await gateway.client.delete(f"/files/{film(0).id}")).status_code == 200
        assert await found(gateway) == {film(1).id, film(2).id, CAMERA.id}
        assert (await gateway.client.get(f"/search/assets/{film(0).id}?model=null")).status_code == 404
        await mark_deleted(redis, filled)
        assert await found(gateway) == {film(1).id, film(2).id, CAMERA.id}
        await remove_marked(filled)
        assert await found(gateway) == {film(1).id, film(2).id, CAMERA.id}


async def test_an_asset_can_be_forgotten_and_embedded_again(
    serve: Serve, searched: Settings, filled: Connection
) -> None:
    async with serve(searched) as gateway:
        answer = await gateway.client.delete(f"/search/assets/{film(0).id}")
        assert answer.json() == {"asset": film(0).id, "forgotten": True}
        assert places(await find(gateway, vector=VECTORS[0].tolist(), assets=[film(0).id])) == []
        await write(filled, msgspec.structs.replace(chunk(film(0), 3, VECTORS[3]), end=99))
        again = await find(gateway, vector=VECTORS[0].tolist(), assets=[film(0).id])
        assert places(again) == [(film(0).id, 3)]
        assert await remove_marked(filled) == 20
        assert (await gateway.client.delete("/search/assets/nobody")).status_code == 200


@pytest.mark.usefixtures("filled")
async def test_the_chunks_of_an_asset(serve: Serve, searched: Settings) -> None:
    path = f"/search/assets/{film(1).id}?model=null"
    async with serve(searched) as gateway:
        whole = (await gateway.client.get(path)).json()
        page = (await gateway.client.get(f"{path}&after=5&limit=3")).json()
        some = (await gateway.client.get(f"{path}&chunks=12,3&thumbnails=true&embeddings=true")).json()
        binary = (await gateway.client.get(f"{path}&chunks=3&embeddings=true&encoding_format=base64")).json()
        missing = await gateway.client.get("/search/assets/nobody?model=null")
        greedy = await gateway.client.get(f"{path}&thumbnails=true&limit=5000")
        bad = await gateway.client.get(f"{path}&chunks=1;2")
    assert [c["chunk"] for c in whole["chunks"]] == list(range(20))
    assert (whole["more"], whole["asset"], whole["model"]) == (False, film(1).id, "null")
    assert whole["chunks"][3] == {
        "chunk": 3, "start": 30.0, "end": 40.0, "start_time": None, "end_time": None, "request": "request",
        "thumbnail": None, "embedding": None,
    }  # fmt: skip
    assert ([c["chunk"] for c in page["chunks"]], page["more"]) == ([5, 6, 7], True)
    assert [c["chunk"] for c in some["chunks"]] == [3, 12]
    assert base64.b64decode(some["chunks"][0]["thumbnail"]) == JPEG
    assert some["chunks"][0]["embedding"] == pytest.approx(VECTORS[23].tolist(), abs=1e-3)
    encoded = base64.b64decode(binary["chunks"][0]["embedding"])
    assert encoded == pack("<4f", *some["chunks"][0]["embedding"])
    assert (missing.status_code, greedy.status_code, bad.status_code) == (404, 422, 422)


@pytest.mark.usefixtures("filled")
async def test_the_state_of_the_index(serve: Serve, searched: Settings, redis: Redis) -> None:
    record = IndexerRecord(
        name="i", state="waiting", detail="the search index is away", bus="redis", topic="t",
        lag_messages=3, lag_seconds=0.5, indexed=61, refused=1, chunks=61,
    )  # fmt: skip
    await announce_indexer(redis, record)
    async with serve(searched) as gateway:
        state = (await gateway.client.get("/search")).json()
    assert state == {
        "chunks": 61,
        "models": [{"id": "null", "dimension": 4}],
        "indexers": [
            {
                "name": "i", "state": "waiting", "detail": "the search index is away", "bus": "redis",
                "topic": "t", "indexed": 61, "refused": 1,
            }
        ],
        "lag_messages": 3,
        "lag_seconds": 0.5,
    }  # fmt: skip


async def test_an_hnsw_index_answers_as_a_comparison_of_all_does(
    serve: Serve, searched: Settings, index: Connection
) -> None:
    """3,000 vectors, with filters that leave few of them, too."""
    vectors = unit_vectors(3000, 4, seed=5)
    await write(index, *(chunk(film(i // 100), i % 100, v) for i, v in enumerate(vectors)))
    assert await build_missing(index, load({"RTEMBED_SEARCH_INDEX_ROWS": "100"})) == ["null"]
    await index.execute("ANALYZE chunks")
    async with serve(searched) as gateway:
        for number, question in enumerate(unit_vectors(5, 4, seed=6)):
            filters: list[dict[str, Any]] = [
                {},
                {"assets": [film(number).id, film(9).id]},
                {"cameras": [film(3).id]},
            ]
            for some in filters:
                fast = await find(gateway, vector=question.tolist(), top_k=20, **some)
                exact = await find(gateway, vector=question.tolist(), top_k=20, exact=True, **some)
                assert len(fast["hits"]) == 20
                same = set(places(fast)) & set(places(exact))
                assert len(same) >= 19
        many = await find(gateway, vector=vectors[0].tolist(), top_k=1500, thumbnails=False)
    assert len(set(places(many))) == 1500


async def test_a_database_that_goes_and_comes_back(serve: Serve, searched: Settings) -> None:
    with TemporaryDirectory(prefix="rt-embed-") as folder:
        server = PostgresServer(Path(folder) / "postgres")
        server.start()
        own = replace(searched, search_url=server.url)
        connection = await database.connect(own)
        await migrate(connection)
        await write(connection, chunk(film(), 0, VECTORS[0]))
        await connection.close()
        async with serve(own) as gateway:
            assert len((await find(gateway, vector=VECTORS[0].tolist()))["hits"]) == 1
            server.kill()
            away = await find(gateway, 503, vector=VECTORS[0].tolist())
            assert away["message"] == "the search index does not answer; try again later"
            assert (await gateway.client.get("/live")).status_code == 200
            server.start()
            await until(lambda: _answers(gateway), timeout=30)
        server.stop()


async def _answers(gateway: Gateway) -> bool:
    body = {"model": "null", "vector": [1, 0, 0, 0]}
    return (await gateway.client.post("/search", json=body)).status_code == 200
