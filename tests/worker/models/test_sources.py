import hashlib
import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared.errors import ModelError
from tests.worker.models.conftest import FakeHub
from worker.models import ngc as ngc_downloads
from worker.models.hub import Repository
from worker.models.ngc import NgcModel
from worker.models.sources import (
    MARKER,
    GitRepository,
    Hubs,
    ModelFiles,
    Source,
    fetch,
    find_model,
    folder_name,
    parse_model_path,
)

CONFIG = json.dumps({"model_type": "cosmos-embed1"}).encode()
SHARD = bytes(range(256)) * 4000
MIB = 1 << 20
LARGE = SHARD * 26  # the hub's client writes 10 MiB at a time
COMMIT = "5b3d0f0c2a1e4b6c8d9e0f1a2b3c4d5e6f708192"


def access_to(hub: FakeHub | None = None, ngc: FakeHub | None = None, **keys: Any) -> Hubs:
    return Hubs(
        hf_endpoint=hub.url if hub else "https://huggingface.co",
        ngc_api=ngc.url if ngc else "",
        ngc_authentication=ngc.url if ngc else "",
        **keys,
    )


def fetch_from(
    hub: FakeHub, cache: Path, text: str = "hf:nvidia/Cosmos-Embed1-448p", **keys: Any
) -> ModelFiles:
    access = access_to(hub, **keys)
    return fetch(parse_model_path(text, access), cache)


@pytest.fixture
def model(hub: FakeHub) -> FakeHub:
    hub.files = {"config.json": CONFIG, "model.safetensors": SHARD, "README.md": b"hello"}
    return hub


def test_urls_of_the_hub_are_repositories() -> None:
    for text in (
        "git:https://huggingface.co/nvidia/Cosmos-Embed1-448p",
        "git:https://huggingface.co/nvidia/Cosmos-Embed1-448p/",
        "git:https://hf.co/nvidia/Cosmos-Embed1-448p.git",
        "hf:nvidia/Cosmos-Embed1-448p",
    ):
        source = parse_model_path(text.rstrip("/"), Hubs())
        assert source == Repository("nvidia/Cosmos-Embed1-448p", "main", "https://huggingface.co")
        assert folder_name(source) == "Cosmos-Embed1-448p"


@pytest.mark.parametrize(
    "text",
    ["git:https://huggingface.co/a/b@v1.0", "hf:a/b@v1.0", "git:https://huggingface.co/a/b/tree/v1.0"],
)
def test_a_revision(text: str) -> None:
    source = parse_model_path(text, Hubs(hf_token="secret"))
    assert source == Repository("a/b", "v1.0", "https://huggingface.co", "secret")
    assert folder_name(source) == "b@v1.0"


def test_a_mirror_of_the_hub() -> None:
    access = Hubs(hf_endpoint="https://mirror.example:8443/")
    expected = Repository("a/b", "main", "https://mirror.example:8443")
    assert parse_model_path("git:https://mirror.example:8443/a/b", access) == expected
    # An address of the hub itself is fetched from the mirror too: that is what HF_ENDPOINT is for.
    assert parse_model_path("git:https://huggingface.co/a/b", access) == expected


@pytest.mark.parametrize(
    ("text", "url", "revision", "name"),
    [
        ("git:https://git.example/group/m.git", "https://git.example/group/m.git", "", "m"),
        ("git:https://git.example/group/m@v2", "https://git.example/group/m", "v2", "m@v2"),
        ("git:git@git.example:group/m.git", "git@git.example:group/m.git", "", "m"),
        ("git:ssh://git@git.example/m@a/b", "ssh://git@git.example/m@a/b", "", "b"),
    ],
)
def test_other_git_servers(text: str, url: str, revision: str, name: str) -> None:
    source = parse_model_path(text, Hubs())
    assert source == GitRepository(url, revision)
    assert folder_name(source) == name


@pytest.mark.parametrize(
    ("text", "team", "folder"),
    [
        ("ngc:nvidia/tao/cosmos-embed1:v1.0", "tao", "nvidia_tao_cosmos-embed1_v1_0"),
        ("ngc:nvidia/tao/models/cosmos-embed1:v1.0", "tao", "nvidia_tao_cosmos-embed1_v1_0"),
        ("ngc:nvidia/cosmos-embed1:v1.0", "", "nvidia_cosmos-embed1_v1_0"),
        ("ngc:nvidia/models/cosmos-embed1:v1.0", "", "nvidia_cosmos-embed1_v1_0"),
    ],
)
def test_ngc_paths(text: str, team: str, folder: str) -> None:
    source = parse_model_path(text, Hubs(ngc_api_key="k"))
    assert isinstance(source, NgcModel)
    assert (source.org, source.team, source.name, source.version) == ("nvidia", team, "cosmos-embed1", "v1.0")
    assert folder_name(source) == folder


def test_the_urls_of_ngc() -> None:
    team = NgcModel("nvidia", "tao", "m", "v1.0").url
    assert team == "https://api.ngc.nvidia.com/v2/org/nvidia/team/tao/models/m/versions/v1.0"
    assert NgcModel("o", "", "m", "1").url == "https://api.ngc.nvidia.com/v2/org/o/models/m/versions/1"


@pytest.mark.parametrize(
    "text",
    [
        "ngc:a/b",
        "ngc:a:1",
        "ngc:a/b/c/d:1",
        "ngc:a//b:1",
        "hf:one",
        "git:https://hf.co/a/b/c",
        "git:https://x/",
    ],
)
def test_paths_that_mean_nothing(text: str) -> None:
    with pytest.raises(ModelError, match="MODEL_PATH"):
        parse_model_path(text, Hubs())


def test_a_download_is_whole_marked_and_used_again(model: FakeHub, tmp_path: Path) -> None:
    fetched = fetch_from(model, tmp_path)
    assert fetched.path == tmp_path / "Cosmos-Embed1-448p"
    assert (fetched.name, fetched.revision) == ("Cosmos-Embed1-448p", COMMIT)
    assert fetched.source == f"{model.url}/nvidia/Cosmos-Embed1-448p"
    assert (fetched.path / "model.safetensors").read_bytes() == SHARD
    assert not (fetched.path / ".cache").exists()
    marker = json.loads((fetched.path / MARKER).read_text())
    assert marker["files"]["model.safetensors"] == hashlib.sha256(SHARD).hexdigest()
    before = len(model.requests)
    assert fetch_from(model, tmp_path) == fetched
    assert len(model.requests) == before  # what is cached is used without asking


def test_the_token_goes_to_the_hub_and_not_to_the_storage(model: FakeHub, tmp_path: Path) -> None:
    model.token = "secret"
    fetch_from(model, tmp_path, hf_token="secret")
    sent = {path.startswith("/storage/"): headers.get("authorization") for _, path, headers in model.requests}
    assert sent == {False: "Bearer secret", True: None}


def test_a_broken_transfer_goes_on_where_it_broke(model: FakeHub, tmp_path: Path) -> None:
    model.files["model.safetensors"] = LARGE
    model.cut_after["model.safetensors"] = [12 * MIB, 11 * MIB]
    fetched = fetch_from(model, tmp_path)
    assert (fetched.path / "model.safetensors").read_bytes() == LARGE
    ranges = model.gets("/storage/model.safetensors")
    assert ranges[0] == ""
    assert len(ranges) == 3
    starts = [int(given.removeprefix("bytes=").rstrip("-")) for given in ranges[1:]]
    assert 0 < starts[0] <= 12 * MIB
    assert starts[0] < starts[1] <= 23 * MIB


def test_a_later_attempt_keeps_what_an_earlier_process_finished(model: FakeHub, tmp_path: Path) -> None:
    """A process that is killed while it downloads leaves its files to the next."""
    model.files["second.safetensors"] = SHARD[::-1]
    model.cut_after["second.safetensors"] = [1000] * 20
    program = textwrap.dedent(f"""
        from pathlib import Path
        from worker.models.sources import Hubs, fetch, parse_model_path
        access = Hubs(hf_endpoint={model.url!r})
        fetch(parse_model_path("hf:a/b", access), Path({str(tmp_path)!r}))
    """)
    first = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    while len(model.gets("/storage/second.safetensors")) < 2:
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    assert not (tmp_path / "b").exists()
    model.cut_after.clear()
    model.requests.clear()
    fetched = fetch_from(model, tmp_path, "hf:a/b")
    assert (fetched.path / "model.safetensors").read_bytes() == SHARD
    assert (fetched.path / "second.safetensors").read_bytes() == SHARD[::-1]
    assert model.gets("/storage/model.safetensors") == []
    assert len(model.gets("/storage/second.safetensors")) == 1


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_digest_is_refused_and_mended(model: FakeHub, tmp_path: Path, name: str) -> None:
    right = model.files[name]
    if name == "model.safetensors":
        model.corrupt.add(name)
    else:
        # Small files come from the hub itself, so let its listing be that of another content.
        model.files[name] = right.replace(b"cosmos", b"cosmoz")
        model.listing_override = model.listing()
        model.files[name] = right
    with pytest.raises(ModelError, match=rf"{name} arrived with \d+ bytes and the digest .* it was deleted"):
        fetch_from(model, tmp_path)
    assert not (tmp_path / "Cosmos-Embed1-448p").exists()
    model.corrupt.clear()
    model.listing_override = b""
    fetched = fetch_from(model, tmp_path)
    assert (fetched.path / name).read_bytes() == right


def test_ten_workers_start_at_once_and_one_download_happens(model: FakeHub, tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        from pathlib import Path
        from worker.models.sources import Hubs, fetch, parse_model_path
        access = Hubs(hf_endpoint={model.url!r})
        print(fetch(parse_model_path("hf:a/b", access), Path({str(tmp_path)!r})).path)
    """)
    workers = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    outputs = [worker.communicate()[0].strip() for worker in workers]
    assert outputs == [str(tmp_path / "b")] * 10
    assert len(model.gets("/storage/model.safetensors")) == 1
    assert len(model.gets("/api/models/a/b/revision/main")) == 1


@pytest.mark.parametrize(
    ("status", "code", "token", "message"),
    [
        (401, "", None, r"does not exist or needs permission \(401\): check MODEL_PATH, and set HF_TOKEN"),
        (401, "", "wrong", r"needs permission \(401\).*check that HF_TOKEN is valid"),
        (
            403,
            "GatedRepo",
            None,
            r"is gated: accept its terms on the model's page, and set HF_TOKEN",
        ),
        (404, "RepoNotFound", None, r"does not exist or needs permission \(404\)"),
        (404, "RevisionNotFound", None, r"at main: there is no such revision"),
        (429, "", None, r"limits the rate of downloads: wait some minutes, and set HF_TOKEN"),
        (500, "", None, r"answered 500 for"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    model: FakeHub, tmp_path: Path, *, status: int, code: str, token: str | None, message: str
) -> None:
    model.listing_status, model.listing_code = status, code
    with pytest.raises(ModelError, match=message) as caught:
        fetch_from(model, tmp_path, hf_token=token)
    assert "nvidia/Cosmos-Embed1-448p" in caught.value.message or status == 429


def test_no_connection_is_explained(model: FakeHub, tmp_path: Path) -> None:
    access = Hubs(hf_endpoint="http://127.0.0.1:1")
    with pytest.raises(
        ModelError, match=r"cannot be reached .* set HF_ENDPOINT to a mirror, or download the model"
    ):
        fetch(parse_model_path("hf:a/b", access), tmp_path)


def test_a_disk_without_room_is_explained(
    model: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.models.remote.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ModelError, match=r"needs 0\.00 GB in .* set NGC_MODEL_CACHE to another disk"):
        fetch_from(model, tmp_path)


def test_progress_is_told(model: FakeHub, tmp_path: Path) -> None:
    told = []
    access = access_to(model)
    fetch(parse_model_path("hf:a/b", access), tmp_path, lambda *what: told.append(what))
    assert told[0] == ("downloading a/b", 0, len(CONFIG) + len(SHARD) + len(b"hello"))


def test_a_repository_without_a_model(hub: FakeHub, tmp_path: Path) -> None:
    """It is fetched, since a model in Python may know what to do with it, and named where one is needed."""
    hub.files = {"README.md": b"nothing here", "model.pth": b"x"}
    fetched = fetch_from(hub, tmp_path)
    with pytest.raises(ModelError, match=r"holds no model: .*export TAO's \.pth files in huggingface mode"):
        find_model(fetched.path)


def test_a_download_of_rt_embed_is_taken_over(hub: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / "Cosmos-Embed1-448p"
    folder.mkdir()
    (folder / "config.json").write_bytes(CONFIG)
    fetched = fetch_from(hub, tmp_path)
    assert (fetched.path, fetched.name, fetched.revision) == (folder, "Cosmos-Embed1-448p", "")
    assert not hub.requests


def test_a_damaged_marker_is_named(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / MARKER).write_text("{}")
    with pytest.raises(ModelError, match=r"\.rt-embed-source\.json is damaged .* delete the folder"):
        fetch_from(hub, tmp_path, "hf:a/b")


def ngc_model(ngc: FakeHub, **keys: Any) -> Source:
    ngc.files = {"config.json": CONFIG, "weights/model.safetensors": SHARD, "notes.txt": b"n"}
    return parse_model_path("ngc:nvidia/tao/models/cosmos-embed1:v1.0", access_to(ngc=ngc, **keys))


def test_a_model_of_ngc(ngc: FakeHub, tmp_path: Path) -> None:
    ngc.token = "nvapi-key"
    fetched = fetch(ngc_model(ngc, ngc_api_key="nvapi-key"), tmp_path)
    assert fetched.path == tmp_path / "nvidia_tao_cosmos-embed1_v1_0"
    assert (fetched.source, fetched.revision) == ("ngc:nvidia/tao/cosmos-embed1:v1.0", "v1.0")
    assert (fetched.path / "weights" / "model.safetensors").read_bytes() == SHARD
    assert len(ngc.gets("/v2/org/nvidia/team/tao/models/cosmos-embed1/versions/v1.0/files")) == 2  # pages
    for _, path, headers in ngc.requests:
        assert headers.get("authorization") == (None if path.startswith("/storage/") else "Bearer nvapi-key")


def test_an_older_key_of_ngc_buys_a_token(ngc: FakeHub, tmp_path: Path) -> None:
    ngc.token = "bought"
    assert fetch(ngc_model(ngc, ngc_api_key="old-key"), tmp_path).revision == "v1.0"


@pytest.mark.parametrize(
    ("team", "scopes"),
    [("", "&scope=group/ngc:nvidia"), ("tao", "&scope=group/ngc:nvidia&scope=group/ngc:nvidia/tao")],
)
def test_the_scopes_of_an_older_key(monkeypatch: pytest.MonkeyPatch, team: str, scopes: str) -> None:
    asked: list[str] = []

    def get(url: str, _: object) -> dict[str, str]:
        asked.append(url)
        return {"token": "t"}

    monkeypatch.setattr(ngc_downloads, "_get_json", get)
    model = NgcModel("nvidia", team, "cosmos-embed1", "v1.0", "old-key")
    assert ngc_downloads.authorization(model) == {"Authorization": "Bearer t"}
    assert asked == [f"https://authn.nvidia.com/token?service=ngc{scopes}"]


def test_a_download_of_rt_embeds_is_used_whatever_it_calls_it(ngc: FakeHub, tmp_path: Path) -> None:
    theirs = tmp_path / "nvidia_tao_models_cosmos-embed1_v1_0"
    theirs.mkdir()
    assert fetch(ngc_model(ngc), tmp_path).path == theirs
    assert ngc.requests == []


def test_a_broken_transfer_from_ngc_goes_on(ngc: FakeHub, tmp_path: Path) -> None:
    ngc.cut_after["weights/model.safetensors"] = [300_000, 100]
    fetched = fetch(ngc_model(ngc), tmp_path)
    assert (fetched.path / "weights" / "model.safetensors").read_bytes() == SHARD
    assert ngc.gets("/storage/weights/model.safetensors") == ["", "bytes=300000-", "bytes=300100-"]


def test_ngc_gives_up_after_some_attempts_and_resumes_later(ngc: FakeHub, tmp_path: Path) -> None:
    ngc.cut_after["weights/model.safetensors"] = [1000] * 5
    with pytest.raises(ModelError, match=r"cannot be reached \(.* ended after 5000 of 1024000 bytes\)"):
        fetch(ngc_model(ngc), tmp_path)
    assert fetch(ngc_model(ngc), tmp_path).revision == "v1.0"
    assert ngc.gets("/storage/weights/model.safetensors")[-1] == "bytes=5000-"


def test_a_wrong_digest_from_ngc_is_refused(ngc: FakeHub, tmp_path: Path) -> None:
    ngc.corrupt.add("weights/model.safetensors")
    with pytest.raises(
        ModelError, match=r"weights/model\.safetensors arrived with 1024000 bytes and the digest"
    ):
        fetch(ngc_model(ngc), tmp_path)


@pytest.mark.parametrize(
    ("status", "key", "message"),
    [
        (401, None, r"ngc:nvidia/tao/cosmos-embed1:v1\.0 needs permission \(401\): set NGC_API_KEY"),
        (403, "nvapi-x", r"needs permission \(403\): check that NGC_API_KEY is valid"),
        (404, None, r"does not exist: check MODEL_PATH, whose form is ngc:ORG/TEAM/MODEL:VERSION"),
        (429, None, r"limits the rate of downloads"),
        (500, None, r"answered 500"),
    ],
)
def test_what_ngc_refuses_is_explained(
    ngc: FakeHub, tmp_path: Path, status: int, key: str | None, message: str
) -> None:
    ngc.listing_status = status
    with pytest.raises(ModelError, match=message):
        fetch(ngc_model(ngc, ngc_api_key=key), tmp_path)


def test_ngc_without_connection(tmp_path: Path) -> None:
    access = Hubs(ngc_api="http://127.0.0.1:1")
    with pytest.raises(ModelError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        fetch(parse_model_path("ngc:a/b:1", access), tmp_path)


def test_ngc_cannot_write_outside_the_model(ngc: FakeHub, tmp_path: Path) -> None:
    source = ngc_model(ngc)
    ngc.files["../escaped"] = b"x"
    with pytest.raises(ModelError, match=r"a file outside the model: \.\./escaped"):
        fetch(source, tmp_path)


Git = Callable[..., str]


@pytest.fixture
def repository(tmp_path: Path) -> tuple[Path, Git]:
    path = tmp_path / "origin" / "mine"
    path.mkdir(parents=True)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        done = subprocess.run(
            ["git", "-C", path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (path / "config.json").write_bytes(CONFIG)
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("tag", "v1")
    (path / "more.txt").write_text("two")
    git("add", ".")
    git("commit", "-q", "-m", "two")
    return path, git


def test_other_repositories_are_cloned_without_their_history(
    repository: tuple[Path, Git], tmp_path: Path
) -> None:
    path, git = repository
    fetched = fetch(parse_model_path(f"git:file://{path}", Hubs()), tmp_path / "cache")
    assert fetched.revision == git("rev-parse", "HEAD")
    assert fetched.source == f"file://{path}"
    assert (fetched.path / "more.txt").exists()
    assert not (fetched.path / ".git").exists()


@pytest.mark.parametrize("by", ["tag", "commit"])
def test_a_tag_or_a_commit_of_another_repository(
    repository: tuple[Path, Git], tmp_path: Path, by: str
) -> None:
    path, git = repository
    git("config", "uploadpack.allowAnySHA1InWant", "true")
    revision = "v1" if by == "tag" else git("rev-parse", "v1")
    fetched = fetch(parse_model_path(f"git:file://{path}@{revision}", Hubs()), tmp_path / "cache")
    assert fetched.revision == git("rev-parse", "v1")
    assert not (fetched.path / "more.txt").exists()


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"git fetch failed: .*nowhere"):
        fetch(parse_model_path(f"git:file://{tmp_path}/nowhere", Hubs()), tmp_path / "cache")


def test_files_in_git_lfs_are_not_taken_for_weights(repository: tuple[Path, Git], tmp_path: Path) -> None:
    path, git = repository
    (path / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"
    )
    git("add", ".")
    git("commit", "-q", "-m", "three")
    with pytest.raises(ModelError, match=r"keeps model\.safetensors in Git LFS: install git-lfs"):
        fetch(parse_model_path(f"git:file://{path}", Hubs()), tmp_path / "cache")


def test_a_local_folder_is_used_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(CONFIG)
    fetched = fetch(parse_model_path(str(tmp_path), Hubs()), tmp_path / "cache")
    assert fetched.path == tmp_path
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere is not a folder \(nor does it begin with git:"):
        fetch(Path(tmp_path / "nowhere"), tmp_path)


def test_a_model_within_a_folder_is_found(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "config.json").write_bytes(CONFIG)
    assert find_model(tmp_path) == tmp_path / "a" / "b"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "model.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds several models: set MODEL_PATH to one of c, a/b"):
        find_model(tmp_path)
