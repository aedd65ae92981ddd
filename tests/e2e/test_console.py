"""The console as people use it, in a real browser on `rt-embed up --search` with the real small model."""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import axe_playwright_python
import httpx
import pytest
from playwright.sync_api import Page, expect
from redis import Redis

from rt_embed.cli.data_folder import valkey_socket
from shared import keys
from shared.jobs import TextJob, to_fields
from tests.browser import needs_browser, open_page
from tests.camera import ScriptedCamera, encode
from tests.e2e.test_up import Up
from worker.models.conse.film import SCENES, make_film

pytestmark = needs_browser

AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
SERIOUS = {"serious", "critical"}
PATIENCE = 40_000
THUMBNAIL = re.compile("^data:image/jpeg;base64,/9j/")
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A data folder that PostgreSQL's user, who is another where we are root, can reach."""
    with TemporaryDirectory(prefix="rt-embed-") as made:
        yield Path(made)


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Up]:
    running = Up(folder, "--search")
    try:
        running.wait_ready()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(60)
        running.stop()


@pytest.fixture(scope="module")
def page(service: Up) -> Iterator[Page]:
    """The console, open for all tests. What it complains of, and any request that leaves, fails them."""
    complaints: list[str] = []
    home = service.url.removesuffix("/v1")
    with open_page("about:blank", complaints) as page:
        page.set_viewport_size({"width": 1280, "height": 800})
        visited: list[str] = []
        page.on("request", lambda request: visited.append(request.url))
        page.goto(f"{home}/")
        yield page
        page.wait_for_load_state("networkidle")
    # A view that is left stops its requests, and a film that is not indexed yet is 404 there.
    assert [text for text in complaints if "ERR_ABORTED" not in text and " 404 " not in text] == []
    assert [url for url in visited if not url.startswith((f"{home}/", f"blob:{home}", "data:"))] == []


def open_view(page: Page, name: str) -> None:
    page.click(f"nav >> text={name}")
    expect(page.locator("h1")).to_have_text(name)


def looked_at(page: Page, name: str) -> None:
    """Assert that axe finds nothing serious; keep a picture, which CI stores."""
    found = page.evaluate(AXE + "; axe.run().then((result) => result.violations)")
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in SERIOUS] == []
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"console-{name}.png")


def test_a_film_is_dropped_embedded_and_shown(page: Page, tmp_path: Path) -> None:
    film = tmp_path / "scenes & <b>more.mp4"
    make_film(film)
    page.set_input_files("#files", film)
    job = page.locator(".job")
    expect(job).to_have_attribute("data-state", "done", timeout=PATIENCE)
    expect(job).to_contain_text(f"{len(SCENES)} chunks in")
    expect(page.locator(".card .shot img")).to_be_visible(timeout=PATIENCE)
    looked_at(page, "films")
    page.click(".card a.name")
    expect(page.locator("h1")).to_have_text(film.name)
    expect(page.locator("[role=status]", has_text=f"{len(SCENES)} chunks.")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("dl", has_text="640")).to_contain_text("h264")
    strip = page.locator(".timeline")
    strip.focus()
    page.keyboard.press("End")
    expect(strip).to_have_attribute("aria-valuetext", "Chunk 8, 0:40 to 0:45")
    page.wait_for_function("() => document.querySelector('video').currentTime >= 40", timeout=PATIENCE)
    looked_at(page, "film")


def test_every_sentence_finds_its_scene_and_a_hit_plays(page: Page) -> None:
    open_view(page, "Search")
    found = 0
    for index, scene in enumerate(SCENES):
        page.fill("input[name=q]", scene.sentence)
        page.keyboard.press("Enter")
        words = page.locator("main [role=status]")
        expect(words).to_contain_text(f"results for “{scene.sentence}”", timeout=PATIENCE)
        best = page.locator(".hit").first.locator("a.name").get_attribute("href") or ""
        found += f"?t={index * 5}&" in f"{best}&"
    assert found >= len(SCENES) - 1, "as right as the demo"
    shot = page.locator(".hit .shot img").first
    expect(shot).to_be_visible(timeout=PATIENCE)
    expect(shot).to_have_attribute("src", THUMBNAIL)
    assert shot.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [320, 180]
    looked_at(page, "search")
    page.fill("input[name=q]", SCENES[1].sentence)
    page.keyboard.press("Enter")
    expect(page.locator("main [role=status]")).to_contain_text(SCENES[1].sentence)
    page.locator(".hit").first.locator("a.name").click()
    page.wait_for_function("() => document.querySelector('video')?.currentTime >= 5", timeout=PATIENCE)
    expect(page.locator("main p[role=status]")).to_contain_text("Best: 0:05 to 0:10", timeout=PATIENCE)


def test_more_like_this_and_a_picture(page: Page, tmp_path: Path) -> None:
    open_view(page, "Search")
    page.fill("input[name=q]", SCENES[0].sentence)
    page.keyboard.press("Enter")
    page.locator(".hit").first.get_by_text("More like this").click()
    expect(page.locator("main [role=status]")).to_contain_text("8 results like that chunk", timeout=PATIENCE)
    picture = tmp_path / "picture.png"
    page.screenshot(path=picture, clip={"x": 300, "y": 260, "width": 160, "height": 100})
    page.set_input_files("#picture", picture)
    expect(page.locator("main [role=status]")).to_contain_text(
        "9 results like that picture", timeout=PATIENCE
    )


def test_a_camera_that_cannot_be_used_says_why_and_one_that_can_be_is_watched(page: Page) -> None:
    open_view(page, "Cameras")
    page.click("text=Add a trigger")
    for name, value in {"text": "a cat", "name": HOSTILE, "threshold": "-1", "cooldown": "0"}.items():
        page.fill(f"dialog [name={name}]", value)
    page.locator("dialog").get_by_text("Add", exact=True).click()
    trigger = page.locator("[data-trigger]")
    expect(trigger).to_contain_text(HOSTILE, timeout=PATIENCE)
    with ScriptedCamera(encode(seconds=4), login=("me", "right")) as camera:
        for password in ("wrong", "right"):
            page.click("text=Add a camera")
            for name, value in {
                "url": camera.url, "name": "Dock 4", "username": "me", "password": password, "seconds": "1"
            }.items():  # fmt: skip
                page.fill(f"dialog [name={name}]", value)
            page.click("text=Test and add")
            if password == "wrong":
                expect(page.locator(".note.bad")).to_contain_text(
                    re.compile("password|login|401|user"), timeout=PATIENCE
                )
        card = page.locator(".card[data-stream]")
        expect(card).to_contain_text("running", timeout=PATIENCE)
        expect(card).to_contain_text(re.compile(r"[1-9]\d* of 1 s"), timeout=PATIENCE)
        shot = card.locator(".shot img")
        expect(shot).to_be_visible(timeout=PATIENCE)
        expect(shot).to_have_attribute("src", THUMBNAIL)
        trigger.get_by_text("Show matches").click()
        match = trigger.locator("[data-event]").first
        expect(match).to_contain_text("Dock 4", timeout=PATIENCE)
        expect(match.locator("img")).to_have_attribute("src", THUMBNAIL)
        looked_at(page, "cameras")
        card.get_by_text("Remove").click()
        page.locator("dialog").get_by_text("Remove", exact=True).click()
        expect(page.locator(".cameras")).to_contain_text("No cameras", timeout=PATIENCE)
    trigger.get_by_text("Delete").click()
    page.locator("dialog").get_by_text("Delete", exact=True).click()
    expect(trigger).to_have_count(0, timeout=PATIENCE)


def test_a_dead_letter_is_put_back_and_hostile_text_stays_text(page: Page, service: Up, folder: Path) -> None:
    model = httpx.get(f"{service.url}/models").json()["data"][0]["id"]
    accepted = httpx.post(
        f"{service.url}/generate_text_embeddings",
        json={"text_input": "a", "model": model},
        headers={"Prefer": "respond-async"},
    )
    request = accepted.json()["id"]
    flat = to_fields(TextJob(request=request, texts=["a"], model=model))
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    with Redis(unix_socket_path=str(valkey_socket(folder))) as redis:
        redis.xadd(
            keys.JOBS_DEAD, {**fields, "lane": "text", "model": model, "deliveries": 3, "error": HOSTILE}
        )
    open_view(page, "Fleet")
    letters = page.locator("#fleet-letters")
    expect(letters).to_contain_text(HOSTILE, timeout=PATIENCE)
    assert letters.locator("img").count() == 0
    assert page.title() == "Fleet · rt-embed"
    expect(page.locator("#fleet-workers tbody tr")).to_have_count(1)
    looked_at(page, "fleet")
    letters.locator("input[type=checkbox]").check()
    letters.get_by_text("Requeue").click()
    page.locator("dialog").get_by_text("Requeue", exact=True).click()
    expect(page.locator(".note", has_text="requeued")).to_be_visible(timeout=PATIENCE)
    expect(letters).to_contain_text("None", timeout=PATIENCE)


def test_texts_are_compared_and_a_film_is_a_map(page: Page) -> None:
    open_view(page, "Embeddings")
    page.fill("#texts", "a cat\na cat\na rocket")
    page.click("text=Compare")
    cells = page.locator(".matrix tbody td")
    expect(cells).to_have_count(9, timeout=PATIENCE)
    assert [cells.nth(i).inner_text() for i in (0, 1, 4, 8)] == ["1.000"] * 4
    page.click("text=Draw")
    expect(page.locator("canvas.map")).to_have_attribute("aria-label", "Map of 9 chunks", timeout=PATIENCE)
    looked_at(page, "embeddings")


def test_on_a_phone_and_in_the_dark(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 740})
    for name in ("Films", "Search", "Cameras", "Fleet", "Embeddings"):
        open_view(page, name)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), name
        looked_at(page, f"phone-{name.lower()}")
