"""The pages that show the API: complete offline, with examples for the model that is served."""

import json
import re
from collections.abc import AsyncIterator

import msgspec
import pytest

from gateway.all_endpoints import ENDPOINTS
from gateway.api.examples import MODEL
from gateway.api.openapi import openapi_document
from shared.fleet import Worker, announce
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve


@pytest.fixture
async def gateway(serve: Serve, settings: Settings) -> AsyncIterator[Gateway]:
    async with serve(settings) as running:
        yield running


async def page(gateway: Gateway, path: str) -> str:
    answer = await gateway.client.get(f"{gateway.url}{path}")
    assert answer.status_code == 200, path
    return answer.text


async def test_the_document_is_served(gateway: Gateway) -> None:
    assert json.loads(await page(gateway, "/openapi.json")) == openapi_document(ENDPOINTS)


async def test_examples_name_the_served_model(gateway: Gateway, redis: Redis, worker: Worker) -> None:
    assert worker.model
    model = msgspec.structs.replace(worker.model, id='an "odd" model')
    await announce(redis, msgspec.structs.replace(worker, model=model))
    await gateway.context.view.refresh()
    text = await page(gateway, "/openapi.json")
    document = json.loads(text)
    assert MODEL not in text
    body = document["paths"]["/v1/generate_text_embeddings"]["post"]["requestBody"]["content"]
    assert body["application/json"]["example"]["model"] == 'an "odd" model'


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_page_loads_only_what_this_server_has(gateway: Gateway, path: str) -> None:
    answer = await gateway.client.get(f"{gateway.url}{path}")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r"""(?:src|href|url|spec-url)(?:=|: )"([^"]+)""", answer.text)
    assert len(links) >= 3
    for link in links:
        assert "//" not in link
        await page(gateway, f"/{link}")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_page_may_not_load_from_elsewhere(gateway: Gateway, path: str) -> None:
    policy = (await gateway.client.get(f"{gateway.url}{path}")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "*" not in policy
