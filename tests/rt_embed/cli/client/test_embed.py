"""`rt-embed embed`, `text`, `search` and `watch` on a real service."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rt_embed.cli.client.vector_files import read_rows
from rt_embed.cli.main import run
from tests.camera import ScriptedCamera, encode
from tests.e2e.conftest import Stack
from tests.models.null.inference import text_vector
from tests.rt_embed.conftest import Wire
from tests.support import RedisServer, free_port

RT_EMBED = str(Path(sys.executable).parent / "rt-embed")


@pytest.fixture
def folder(service: Stack, colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two films below a folder, and the working directory above it."""
    (tmp_path / "media" / "more").mkdir(parents=True)
    shutil.copy(colours, tmp_path / "media" / "one.mp4")
    shutil.copy(colours, tmp_path / "media" / "more" / "two.MP4")
    (tmp_path / "media" / "notes.txt").write_text("no film")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RTVI_BACKEND", service.url)
    return tmp_path


def chunks_of(path: Path) -> list[tuple[str, float]]:
    return [(row.source, row.start) for row in read_rows(path)]


WANTED = [(name, 5.0 * n) for name in ("media/more/two.MP4", "media/one.mp4") for n in range(5)]


@pytest.mark.parametrize("suffix", ["jsonl", "npy", "parquet"])
def test_a_folder_becomes_a_file_of_vectors(folder: Path, service: Stack, suffix: str) -> None:
    out = folder / f"vectors.{suffix}"
    assert run(["embed", "media", "--chunk-duration", "5", "--out", str(out)]) == 0
    assert chunks_of(out) == WANTED
    assert not list(folder.glob("*.partial"))
    rows = list(read_rows(out))
    assert all(len(row.values) == 768 for row in rows)
    reds = [float(row.values[0]) for row in rows]
    assert reds[:5] == reds[5:]
    assert len(set(reds)) > 2
    if suffix == "npy":
        assert np.load(out).shape == (10, 768)
    elif suffix == "parquet":
        assert pq.read_table(out).column_names[-1] == "vector"
    else:
        assert len(json.loads(out.read_text().splitlines()[0])["vector"]) == 768
    assert run(["embed", "media", "--chunk-duration", "5", "--out", str(out)]) == 2  # it exists
    assert run(["embed", "media/one.mp4", "--chunk-duration", "0", "--out", str(out), "--overwrite"]) == 0
    assert chunks_of(out) == [("media/one.mp4", 0.0)]


def test_without_a_file_chunks_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["embed", "media/one.mp4"]) == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines == [f"media/one.mp4  {n}.0 to {min(n + 10, 25)}.0  768 dimensions" for n in (0, 10, 20)]
    assert run(["embed", "media/one.mp4", "--json", "--thumbnails", "shots"]) == 0
    shots = sorted(path.name.split("-")[-1] for path in (folder / "shots").glob("one.mp4-????????-*.jpg"))
    assert shots == ["0.0.jpg", "10.0.jpg", "20.0.jpg"]
    for path in (folder / "shots").iterdir():
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (160, 90))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(row["end"] for row in rows) == [10.0, 20.0, 25.0]
    assert {len(row["vector"]) for row in rows} == {768}


def test_what_was_uploaded_can_be_deleted(folder: Path, service: Stack) -> None:
    before = service.client.get("/files?purpose=vision").json()["data"]
    assert run(["embed", "media", "--delete", "-o", "vectors.jsonl"]) == 0
    assert service.client.get("/files?purpose=vision").json()["data"] == before


def test_a_source_that_fails_does_not_stop_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "media" / "broken.mp4").write_bytes(b"no film")
    assert run(["embed", "media", "--chunk-duration", "5", "-o", "vectors.jsonl"]) == 1
    assert "failed: media/broken.mp4: 400 InvalidFile" in capsys.readouterr().err
    assert chunks_of(Path("vectors.jsonl")) == WANTED
    shutil.copy("media/one.mp4", "media/broken.mp4")
    assert run(["embed", "media", "--chunk-duration", "5", "-o", "vectors.jsonl"]) == 0
    assert len(chunks_of(Path("vectors.jsonl"))) == 15
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file or folder"),
        (["empty"], "empty holds neither films nor pictures"),
        (["media", "-o", "vectors.csv"], "vectors.csv: the name must end in .jsonl, .npy, .parquet"),
        (["media", "--print-curl-command"], "it makes many requests; see generate-video-embeddings"),
    ],
)
def test_what_cannot_be_done(
    folder: Path, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    assert run(["embed", *arguments]) == 2
    assert capsys.readouterr().err == f"rt-embed embed: {reason}\n"


def test_options_of_a_run_that_goes_on_must_be_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "media" / "broken.mp4").write_bytes(b"no film")
    assert run(["embed", "media", "--chunk-duration", "5", "-o", "vectors.jsonl"]) == 1
    assert run(["embed", "media", "--chunk-duration", "6", "-o", "vectors.jsonl"]) == 2
    assert "vectors.jsonl.partial began with {'chunk_duration': 5," in capsys.readouterr().err


def test_a_connection_that_breaks_costs_nothing(folder: Path, wire: Wire) -> None:
    wire.cuts = [3000] * 6
    arguments = ["embed", "media", "--chunk-duration", "5", "-o", "vectors.jsonl", "--backend", wire.url]
    assert run(arguments) == 0
    assert wire.cuts == []
    assert chunks_of(Path("vectors.jsonl")) == WANTED


# A run that is interrupted ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slow_service(valkey: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service whose model takes a third of a second for a batch."""
    stack = Stack(tmp_path_factory.mktemp("slow"), f"redis://127.0.0.1:{valkey.port}/3")
    stack.environment |= {"MODEL_PATH": "null?video=0.3", "VLM_BATCH_SIZE": "1"}
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on_where_it_was(
    slow_service: Stack, folder: Path, end: signal.Signals
) -> None:
    uploaded = len(slow_service.client.get("/files?purpose=vision").json()["data"])
    command = [RT_EMBED, "embed", "media", "--chunk-duration", "1", "-o", "vectors.jsonl"]
    environment = {**os.environ, "RTVI_BACKEND": slow_service.url}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    journal = Path("vectors.jsonl.partial")
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_text().count('"row"') < 6:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(end)
    _, said = process.communicate(timeout=20)
    if end is signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted; run the same command again to go on" in said
    before = journal.read_text().count('"row"')
    assert before < 50
    if end is signal.SIGKILL:
        with journal.open("a") as file:
            file.write('{"source": "media/one.mp4", "ro')  # cut off in the middle of a line
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    assert [start for _, start in chunks_of(Path("vectors.jsonl"))] == [float(n) for n in range(25)] * 2
    assert len(slow_service.client.get("/files?purpose=vision").json()["data"]) == uploaded + 2


def test_a_run_goes_on_when_the_service_has_forgotten_the_first(slow_service: Stack, folder: Path) -> None:
    options = {"chunk_duration": 5, "chunk_overlap": 0, "model": ""}
    gone = "123e4567-e89b-12d3-a456-426614174000"
    row = {"source": "media/one.mp4", "asset_id": gone, "start": 3.0, "end": 4.0, "start_time": "3.0",
           "end_time": "4.0", "vector": ""}  # fmt: skip
    entries = [
        {"source": "", "options": options},
        {"source": "media/one.mp4", "row": row, "asset_id": gone, "event_id": f"{gone}/1-0"},
    ]
    Path("vectors.jsonl.partial").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    arguments = ["embed", "media/one.mp4", "--chunk-duration", "5", "-o", "vectors.jsonl"]
    assert run([*arguments, "--backend", slow_service.url]) == 0
    assert chunks_of(Path("vectors.jsonl")) == [("media/one.mp4", 5.0 * n) for n in range(5)]


def test_people_see_bars(slow_service: Stack, folder: Path) -> None:
    """On a terminal, upload and chunks are drawn; into a pipe nothing is."""
    command = [RT_EMBED, "embed", "media/one.mp4", "--chunk-duration", "2", "-o", "vectors.jsonl"]
    environment = {**os.environ, "RTVI_BACKEND": slow_service.url, "TERM": "xterm", "COLUMNS": "120"}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, env=environment, stderr=theirs)
    os.close(theirs)
    drawn = b""
    while True:
        try:
            drawn += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait(20) == 0
    shown = drawn.decode()
    assert "embedding media/one.mp4" in shown
    assert "/13" in shown
    assert "13 vectors in vectors.jsonl" in shown


# Searching ----------------------------------------------------------------------------------------------


def test_sentences(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["text", "a cat", "a dog"]) == 0
    shown = capsys.readouterr().out
    cat, dog = text_vector("a cat"), text_vector("a dog")
    alike = float(cat @ dog) / float(np.linalg.norm(cat) * np.linalg.norm(dog))
    assert shown.count(f"{alike:.3f}") == 2
    assert shown.count("1.000") == 2
    assert run(["text", "a cat", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["text"] == "a cat"
    assert np.array_equal(np.array(found["vector"], np.float32), cat)
    assert run(["text", "a cat", "--out", "texts.npy"]) == 0
    assert np.array_equal(np.load("texts.npy")[0], cat)
    assert run(["text", "a cat", "--print-curl-command"]) == 0
    assert "/v1/generate_text_embeddings" in capsys.readouterr().out


def test_a_file_is_searched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"sentence {number}" for number in range(20)]
    assert run(["text", *texts, "--out", "texts.parquet"]) == 0
    assert run(["search", "sentence 7", "--in", "texts.parquet", "--top", "3", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert hits[0] == {"score": 1.0, "source": "sentence 7", "start": "", "end": ""}
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert len(hits) == 3
    assert run(["search", "sentence 7", "--in", "texts.parquet", "--min-score", "0.999"]) == 0
    assert "sentence 7" in capsys.readouterr().out
    assert run(["search", "other", "--in", "texts.parquet", "--min-score", "0.999"]) == 0
    assert capsys.readouterr().out == "nothing found\n"


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ([], 2, "give a sentence, or --image"),
        (["a", "--image", "b"], 2, "give a sentence, or --image"),
        (["a", "--in", "v.jsonl", "--camera", "c"], 2, "--camera needs the service's own index, so no --in"),
        (["a", "--in", "v.jsonl"], 1, "v.jsonl: No such file or directory"),
        (["a", "--in", "broken.jsonl"], 1, "broken.jsonl is not a file of vectors: "),
        (
            ["a", "--in", "short.jsonl"],
            1,
            "vectors of 1 dimensions cannot be compared with 768: another model?",
        ),
    ],
)
def test_searches_that_cannot_be_made(
    folder: Path, arguments: list[str], status: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.jsonl").write_text("no JSON\n")
    times = {"start": 0, "end": 1, "start_time": "0", "end_time": "1"}
    Path("short.jsonl").write_text(
        json.dumps({"source": "s", "asset_id": "", **times, "vector": [1.0]}) + "\n"
    )
    assert run(["search", *arguments]) == status
    assert capsys.readouterr().err.startswith(f"rt-embed search: {reason}")


# Watching -----------------------------------------------------------------------------------------------


def test_a_camera_is_watched(service: Stack, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ScriptedCamera(encode(gop=30, size=96)) as camera:
        arguments = ["watch", camera.url, "--chunk-duration", "1", "--alert", "a cat", "--above", "-1"]
        assert run([*arguments, "--count", "2"]) == 0
        first, second = capsys.readouterr().out.splitlines()
        assert " s late  a cat: " in first
        assert first < second  # both begin with their time
        assert run([*arguments, "--count", "1", "--json"]) == 0
        record: Any = json.loads(capsys.readouterr().out)
        assert record["alert"] == ["a cat"]
        assert len(record["vector"]) == 768
        assert service.client.get("/streams/get-stream-info").json() == []  # it goes when nobody watches


def test_watching_ends_with_ctrl_c(service: Stack, folder: Path) -> None:
    with ScriptedCamera(encode(gop=30, size=96)) as camera:
        command = [RT_EMBED, "watch", camera.url, "--chunk-duration", "1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout
        assert " s late" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert (process.returncode, said) == (0, "")
        assert service.client.get("/streams/get-stream-info").json() == []


def test_a_camera_that_cannot_be_watched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["watch", f"rtsp://127.0.0.1:{free_port()}/x"]) == 1
    assert capsys.readouterr().err.startswith("rt-embed watch: 400 InvalidFile: ")
