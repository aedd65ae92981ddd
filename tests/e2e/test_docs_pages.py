"""The API's pages as people use them: a real browser clicks through upload, embedding and search."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import needs_browser, open_page
from tests.e2e.conftest import Stack
from tests.support import PostgresServer, RedisServer, wait_for

pytestmark = needs_browser

TEXT, VIDEO = "Embeddings-generate_text_embeddings", "Embeddings-generate_video_embeddings"
UPLOAD, LISTED, SEARCH = "Files-add_file", "Files-list_files", "Search-search"


@pytest.fixture(scope="module")
def service(
    valkey: RedisServer, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A running service with a search index."""
    stack = Stack(tmp_path_factory.mktemp("stack"), f"redis://127.0.0.1:{valkey.port}/7")
    try:
        stack.start_indexer(postgres.database())
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def page(service: Stack, complaints: list[str]) -> Iterator[Page]:
    """Swagger UI."""
    with open_page(f"{service.url}/docs", complaints) as page:
        page.wait_for_selector(".opblock")
        yield page


def unfold(page: Page, operation: str) -> str:
    """Open an operation; the selector of its block."""
    block = f"#operations-{operation}"
    page.click(f"{block} .opblock-summary-control")
    page.wait_for_selector(f"{block} .execute")
    return block


def execute(page: Page, block: str) -> Any:
    """Click on Execute; the answer, whose status must be 200."""
    page.click(f"{block} .execute")
    answer = f"{block} .live-responses-table tr.response"
    page.wait_for_selector(answer, timeout=30_000)
    text = page.inner_text(f"{answer} .response-col_description .microlight")
    assert page.inner_text(f"{answer} .response-col_status").split()[0] == "200", text
    return json.loads(text)


def test_the_main_job_is_first(page: Page) -> None:
    sections = [heading.inner_text().split()[0] for heading in page.query_selector_all(".opblock-tag")]
    assert sections[:3] == ["Embeddings", "Files", "Requests"]


@pytest.mark.parametrize("operation", [TEXT, VIDEO, "Embeddings-create_embeddings", "Models-list_models"])
def test_an_example_is_sent_as_it_is(page: Page, complaints: list[str], operation: str) -> None:
    answer = execute(page, unfold(page, operation))
    assert answer.get("model", "null") == "null", "the served model's id"
    assert answer["data"] if "data" in answer else answer["chunk_responses"]
    assert complaints == []


def test_from_upload_to_search_by_clicking(
    page: Page, service: Stack, film: Path, complaints: list[str]
) -> None:
    block = unfold(page, UPLOAD)
    for field, first in (("purpose", "vision"), ("media_type", "video")):
        assert page.input_value(f"{block} [data-property-name={field}] select") == first
    assert page.eval_on_selector_all(f"{block} input[type=text]", "all => all.map(i => i.value)") == [""] * 4
    page.set_input_files(f"{block} input[type=file]", film)
    file = execute(page, block)
    assert (file["filename"], file["media_type"], file["creation_time"]) == ("film.mp4", "video", None)
    assert execute(page, unfold(page, LISTED))["data"] == [file]

    block = unfold(page, VIDEO)
    page.select_option(f"{block} .examples-select select", "An uploaded video: put its id here")
    body = page.input_value(f"{block} textarea")
    page.fill(f"{block} textarea", re.sub(r'"id": "[^"]+"', f'"id": "{file["id"]}"', body))
    answer = execute(page, block)
    assert [chunk["start_time"] for chunk in answer["chunk_responses"]] == ["0.0", "10.0", "20.0"]
    assert len(answer["chunk_responses"][0]["embeddings"]) == 768

    indexed = f"/search/assets/{file['id']}"
    wait_for(lambda: len(service.client.get(indexed).json().get("chunks", ())) == 3)
    answer = execute(page, unfold(page, SEARCH))
    found = [(hit["name"], hit["start"]) for hit in answer["hits"] if hit["asset"] == file["id"]]
    assert sorted(found) == [("film.mp4", 0), ("film.mp4", 10), ("film.mp4", 20)]
    assert complaints == []


def test_redoc_loads_everything_and_searches(service: Stack, complaints: list[str]) -> None:
    with open_page(f"{service.url}/redoc", complaints) as page:
        page.fill("[role=search] input", "generate_text_embeddings")
        page.wait_for_selector("[role=search] >> text=Embed text")
        page.wait_for_load_state("networkidle")
    assert complaints == []
