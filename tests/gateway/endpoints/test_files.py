"""The list of files: whole, and in pages."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.store import asset_store
from shared import keys
from shared.assets import Asset
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve

IDS = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(7)]
FILES = [*IDS[:2], *IDS[4:]]
"""Between them are two cameras."""


@pytest.fixture
async def gateway(serve: Serve, settings: Settings) -> AsyncIterator[Gateway]:
    """A gateway with five files and two cameras, added in the order of their ids."""
    async with serve(settings) as running:
        for number, asset_id in enumerate(IDS):
            kind: Any = "file" if asset_id in FILES else "stream"
            asset = Asset(id=asset_id, kind=kind, path=__file__, filename=f"{number}.mp4")
            await running.context.assets.register(asset)
        yield running


async def listed(gateway: Gateway, **query: Any) -> dict[str, Any]:
    answer = await gateway.client.get("/files", params={"purpose": "vision", **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [file["id"] for file in answer["data"]]


async def test_without_parameters_all_are_listed_as_the_original_does(gateway: Gateway) -> None:
    answer = await listed(gateway)
    assert ids(answer) == FILES
    assert set(answer) == {"data", "object"}
    assert answer["data"][0]["bytes"] > 0


@pytest.mark.parametrize("read", [1, 2, 500])
@pytest.mark.parametrize("limit", [1, 2, 5, 100])
async def test_pages_are_the_whole_list(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, read: int, limit: int
) -> None:
    monkeypatch.setattr(asset_store, "READ", read)
    answer = await listed(gateway, limit=limit)
    pages = [ids(answer)]
    while answer["has_more"]:
        answer = await listed(gateway, limit=limit, after=pages[-1][-1])
        pages.append(ids(answer))
    assert [asset_id for page in pages for asset_id in page] == FILES
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)


async def test_after_without_a_limit_is_the_rest(gateway: Gateway) -> None:
    assert ids(await listed(gateway, after=FILES[2])) == FILES[3:]


async def test_what_was_deleted_since_the_last_page_is_not_missed_or_repeated(
    gateway: Gateway, redis: Redis
) -> None:
    first = ids(await listed(gateway, limit=2))
    await redis.zrem(keys.ASSETS, first[0])
    await redis.delete(keys.asset(first[0]))
    assert ids(await listed(gateway, limit=2, after=first[-1])) == FILES[2:4]


async def test_a_page_after_an_unknown_file_is_refused(gateway: Gateway) -> None:
    unknown = "11111111-1111-4111-8111-111111111111"
    answer = await gateway.client.get("/files", params={"purpose": "vision", "after": unknown})
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameter")
    assert unknown in answer.json()["message"]


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 10_001}, {"limit": "x"}, {"after": "no-uuid"}])
async def test_a_page_that_cannot_be_is_refused(gateway: Gateway, query: dict[str, Any]) -> None:
    answer = await gateway.client.get("/files", params={"purpose": "vision", **query})
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
