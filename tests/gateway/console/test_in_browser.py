"""The page in a browser where it needs a key and lies below a path of a proxy."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from playwright.async_api import Page, async_playwright, expect

from shared.settings import Settings
from shared.settings.setting_types import NamedKey
from tests.browser import CHROMIUM, OPTIONS, needs_browser
from tests.gateway.conftest import Gateway, Serve

pytestmark = needs_browser


@pytest.fixture
async def gateway(serve: Serve, settings: Settings) -> AsyncIterator[Gateway]:
    keyed = replace(settings, root_path="/video/search", api_keys=(NamedKey("", "the key"),))
    async with serve(keyed) as running:
        yield running


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield await (await browser.new_context()).new_page()
        await browser.close()


@pytest.mark.usefixtures("film", "worker")
async def test_a_key_is_asked_for_kept_in_the_tab_and_sent_below_the_prefix(
    gateway: Gateway, page: Page
) -> None:
    visited: list[str] = []
    page.on("request", lambda request: visited.append(request.url))
    home = f"{gateway.url}/video/search/"
    await page.goto(home)
    for key in ("wrong", "the key"):
        await expect(page.locator("dialog")).to_contain_text("needs an API key")
        await page.fill("dialog input[name=key]", key)
        await page.click("dialog >> text=Use it")
    await expect(page.locator(".card a.name")).to_have_text("film.mp4")
    await page.click("nav >> text=Cameras")
    await expect(page.locator(".cameras")).to_contain_text("No cameras")
    assert await page.locator("dialog").count() == 0
    await page.reload()
    await expect(page.locator("main h1")).to_have_text("Cameras")
    assert await page.locator("dialog").count() == 0
    assert [url for url in visited if not url.startswith((home, "data:"))] == []
    other = await page.context.new_page()
    await other.goto(home)
    await expect(other.locator("dialog")).to_contain_text("API key")  # it was kept in that tab alone
