"""The console's page: small, complete, from this server alone, and safe from hostile text."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.console.page import ASSETS
from shared.settings import Settings
from shared.settings.setting_types import NamedKey
from tests.gateway.conftest import Gateway, Serve

SOURCES = sorted(ASSETS.iterdir())
LARGEST_PAGE = 300_000


@pytest.fixture
async def gateway(serve: Serve, settings: Settings) -> AsyncIterator[Gateway]:
    async with serve(replace(settings, api_keys=(NamedKey("", "secret"),))) as running:
        yield running


async def test_the_page_and_what_it_loads_need_no_key(gateway: Gateway) -> None:
    answer = await gateway.client.get(f"{gateway.url}/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = set(re.findall(r'(?:src|href)="(console/[^"]+)"', answer.text))
    assert {"console/main.js", "console/console.css", "console/icon.svg"} <= links
    for link in links:
        assert (await gateway.client.get(f"{gateway.url}/{link}")).status_code == 200, link
    assert (await gateway.client.get("/files?purpose=vision")).status_code == 401


@pytest.mark.parametrize("path", ["/", "/console/main.js", "/console/console.css"])
async def test_the_policy_allows_no_other_address_and_no_inline_script(gateway: Gateway, path: str) -> None:
    headers = (await gateway.client.get(f"{gateway.url}{path}")).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert not re.search(r"unsafe|http|\*", policy)
    assert headers["x-content-type-options"] == "nosniff"


async def test_nothing_outside_its_folder_is_served(gateway: Gateway) -> None:
    for path in ("/console/%2e%2e%2fpage.py", "/console/..%2fpage.py", "/console/missing.js"):
        assert (await gateway.client.get(f"{gateway.url}{path}")).status_code == 404


async def test_a_page_that_is_kept_is_asked_for_again_and_not_sent_again(gateway: Gateway) -> None:
    first = await gateway.client.get(f"{gateway.url}/console/main.js")
    seen = {"If-None-Match": first.headers["etag"]}
    assert (await gateway.client.get(f"{gateway.url}/console/main.js", headers=seen)).status_code == 304
    plain = await gateway.client.get(
        f"{gateway.url}/console/main.js", headers={**seen, "Accept-Encoding": "identity"}
    )
    assert (
        (plain.status_code, plain.content) == (200, (ASSETS / "main.js").read_bytes()) == (200, first.content)
    )
    assert first.headers["content-encoding"] == "gzip"
    assert int(first.headers["content-length"]) < len(plain.content) / 2


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in SOURCES) < LARGEST_PAGE


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if path.suffix == ".js"], ids=lambda path: path.name
)
def test_no_text_becomes_markup_or_code(path: Path) -> None:
    text = path.read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text
    )
    assert not re.search(r"https?://", text)
