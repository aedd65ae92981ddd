"""Which URLs are fetched, and files that are used where they are."""

from pathlib import Path

import pytest

from gateway.intake.downloads import Downloaded, Downloads, Location
from gateway.intake.http_source import HttpNetwork
from gateway.store.asset_store import AssetStore
from shared.errors import (
    Forbidden,
    MissingFile,
)
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.intake.conftest import Fetch
from tests.gateway.outside import Names, Wire


async def test_only_http_is_resolved(settings: Settings, redis: Redis, names: Names, wire: Wire) -> None:
    store = AssetStore(redis, settings)
    downloads = Downloads(settings, store, HttpNetwork(names.lookup, wire))
    for url in ("file:///a", "data:a/b,", "s3://localhost/metadata"):
        assert await downloads.locate(url) == Location(url)
    store.close()


# file: ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Allowed: `allowed`, which holds a film, a folder, and links in and out."""
    allowed = tmp_path / "allowed"
    (allowed / "deep").mkdir(parents=True)
    (allowed / "deep" / "a b.mp4").write_bytes(b"video")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "secret").write_bytes(b"secret")
    (allowed / "out").symlink_to(tmp_path / "allowed-not" / "secret")
    (allowed / "away").symlink_to(tmp_path / "allowed-not")
    (allowed / "in").symlink_to(allowed / "deep" / "a b.mp4")
    return allowed


@pytest.mark.parametrize("name", ["deep/a b.mp4", "in", "deep/../deep/a b.mp4"])
async def test_a_file_in_an_allowed_folder_is_used_where_it_is(fetch: Fetch, folder: Path, name: str) -> None:
    fetched, content = await fetch.file(f"file://{folder}/{name}", file_url_dirs=(str(folder),))
    assert fetched == Downloaded(str(folder / "deep" / "a b.mp4"), "a b.mp4", 5, ours=False)
    assert content == b"video"


async def test_the_allowed_folder_may_be_a_link(fetch: Fetch, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    url = f"file://{tmp_path}/link/deep/a b.mp4"
    assert await fetch(url, file_url_dirs=("/nowhere", str(tmp_path / "link"))) == b"video"


@pytest.mark.parametrize(
    "name", ["out", "away/secret", "../allowed-not/secret", "deep/../../allowed-not/secret", "../missing"]
)
async def test_a_file_outside_is_forbidden(fetch: Fetch, folder: Path, name: str) -> None:
    with pytest.raises(Forbidden):
        await fetch(f"file://{folder}/{name}", file_url_dirs=(str(folder),))


async def test_files_are_forbidden_by_default(fetch: Fetch, folder: Path) -> None:
    with pytest.raises(Forbidden):
        await fetch(f"file://{folder}/deep/a b.mp4")


async def test_a_relative_file_is_forbidden(
    fetch: Fetch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(Forbidden):
        await fetch("file://in", file_url_dirs=(str(folder),))


@pytest.mark.parametrize("name", ["missing.mp4", "deep", ""])
async def test_a_file_that_is_none_is_missing(fetch: Fetch, folder: Path, name: str) -> None:
    with pytest.raises(MissingFile):
        await fetch(f"file://{folder}/{name}", file_url_dirs=(str(folder),))
