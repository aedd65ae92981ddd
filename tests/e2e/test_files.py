"""Files through the whole service."""

import re
import uuid
from pathlib import Path

import pytest

from tests.e2e.conftest import Stack
from tests.e2e.media import picture

STORES = ["folder", "bucket"]
FORM = {"purpose": "vision", "media_type": "video"}


def test_an_upload_is_described_stored_and_deleted(shared_stack: Stack, film: Path) -> None:
    client = shared_stack.client
    with film.open("rb") as file:
        form = {**FORM, "creation_time": "2024-06-09T18:32:11.123Z", "sensor_name": "Dock (east) №1"}
        answer = client.post("/files", data=form, files={"file": file}).json()
    size = film.stat().st_size
    assert answer == {
        "id": answer["id"], "bytes": size, "filename": "film.mp4", "purpose": "vision",
        "creation_time": "2024-06-09T18:32:11.123Z", "sensor_name": "Dock (east) №1", "media_type": "video",
    }  # fmt: skip
    information = client.get(f"/files/{answer['id'].upper().replace('-', '')}").json()
    assert information == {key: value for key, value in answer.items() if key != "media_type"}
    assert answer in client.get("/files?purpose=vision").json()["data"]
    path = shared_stack.path_of(answer["id"])
    assert path.endswith("/film.mp4")
    assert shared_stack.read_stored(path) == film.read_bytes()
    before = shared_stack.stored()
    assert client.delete(f"/files/{answer['id']}").json() == {
        "id": answer["id"], "object": "file", "deleted": True
    }  # fmt: skip
    assert len(shared_stack.stored()) == len(before) - 1
    assert client.get(f"/files/{answer['id']}").json()["code"] == "BadParameter"


def test_content_comes_whole_or_in_ranges(shared_stack: Stack, film: Path) -> None:
    film_id = shared_stack.upload(film)
    data = film.read_bytes()
    whole = shared_stack.client.get(f"/files/{film_id}/content")
    assert whole.content == data
    assert whole.headers["content-type"] == "video/mp4"
    part = shared_stack.client.get(f"/files/{film_id}/content", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == data[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(data)}"


def test_a_path_on_the_server_is_used_in_place(shared_stack: Stack, film: Path, tmp_path: Path) -> None:
    here = tmp_path / "here.mp4"
    here.write_bytes(film.read_bytes())
    before = shared_stack.stored()
    answer = shared_stack.client.post("/files", data={**FORM, "filename": str(here)}).json()
    assert answer["filename"] == "here.mp4"
    assert answer["bytes"] == here.stat().st_size
    assert shared_stack.stored() == before
    body = {"id": answer["id"], "model": "null"}
    assert shared_stack.client.post("/generate_video_embeddings", json=body).status_code == 200
    assert shared_stack.client.delete(f"/files/{answer['id']}").status_code == 200
    assert here.exists()


def test_an_id_may_be_chosen_once(shared_stack: Stack, film: Path) -> None:
    chosen = str(uuid.uuid4())
    assert shared_stack.upload(film, id=chosen) == chosen
    with film.open("rb") as file:
        again = shared_stack.client.post("/files", data={**FORM, "id": chosen}, files={"file": file})
    assert (again.status_code, again.json()["code"]) == (409, "DuplicateAssetId")
    assert shared_stack.client.get(f"/files/{chosen}/content").content == film.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "media_type", "message"),
    [
        ("noise.mp4", b"this is no film" * 100, "video", ""),
        ("empty.mp4", b"", "video", ""),
        ("picture.png", None, "video", "video"),
        ("film.mp4", None, "image", "image"),
    ],
)
def test_what_is_not_the_media_it_claims_to_be_leaves_nothing(  # noqa: PLR0917 - fixtures and cases
    shared_stack: Stack,
    film: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    media_type: str,
    message: str,
) -> None:
    before = shared_stack.stored()
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name == "film.mp4":
        path = film
    else:
        path = picture(tmp_path, (1, 2, 3))
    with path.open("rb") as file:
        form = {"purpose": "vision", "media_type": media_type}
        answer = shared_stack.client.post("/files", data=form, files={"file": (name, file)})
    assert (answer.status_code, answer.json()["code"]) == (400, "InvalidFile")
    assert message in answer.json()["message"]
    assert shared_stack.stored() == before


def test_a_body_cut_off_in_the_middle_leaves_nothing(shared_stack: Stack) -> None:
    before = shared_stack.stored()
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n' + b"0" * 3_000_000
    answer = shared_stack.client.post(
        "/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")
    assert "ends in the middle" in answer.json()["message"]
    assert shared_stack.stored() == before


@pytest.mark.parametrize("name", ["../evil.mp4", "a/b.mp4", "..", "x" * 256])
def test_a_file_name_that_is_not_allowed_is_refused(shared_stack: Stack, name: str) -> None:
    answer = shared_stack.client.post("/files", data=FORM, files={"file": (name, b"data")})
    assert (answer.status_code, answer.json()["code"]) == (400, "BadParameters")


@pytest.mark.parametrize(
    "name",
    ["video (1).mp4", "it's.mp4", "a+b.mp4", "Фильм.mp4", "映" * 251 + ".mp4", 'a "q?".mp4', "5%.mp4"],
)
def test_any_name_is_kept(shared_stack: Stack, film: Path, name: str) -> None:
    with film.open("rb") as file:
        answer = shared_stack.client.post("/files", data=FORM, files={"file": (name, file)})
    assert answer.status_code == 200, answer.text
    file_id = answer.json()["id"]
    assert answer.json()["filename"] == name
    assert shared_stack.client.get(f"/files/{file_id}").json()["filename"] == name
    content = shared_stack.client.get(f"/files/{file_id}/content")
    assert (content.content, content.headers["content-type"]) == (film.read_bytes(), "video/mp4")
    stored = [path.rpartition("/")[2] for path in shared_stack.stored() if file_id in path]
    assert all(re.fullmatch(r"[A-Za-z0-9_.\- ]{1,100}", path) for path in stored)
    assert shared_stack.client.delete(f"/files/{file_id}").status_code == 200


def test_what_is_in_a_file(shared_stack: Stack, film: Path, tmp_path: Path) -> None:
    video, image = shared_stack.upload(film), shared_stack.upload(picture(tmp_path, (1, 2, 3)), "image")
    assert shared_stack.client.get(f"/files/{video}/media").json() == {
        "id": video, "media_type": "video", "codec": "h264", "width": 160, "height": 90,
        "duration": 25.0, "frame_rate": 30.0, "joined": False,
    }  # fmt: skip
    found = shared_stack.client.get(f"/files/{image}/media").json()
    assert (found["media_type"], found["codec"], found["duration"]) == ("image", "png", None)
    unknown = shared_stack.client.get(f"/files/{uuid.uuid4()}/media")
    assert (unknown.status_code, unknown.json()["code"]) == (400, "BadParameter")


def test_neither_or_both_of_file_and_filename_are_refused(shared_stack: Stack) -> None:
    for extra, files in (({}, None), ({"filename": "/tmp/x"}, {"file": ("a.mp4", b"data")})):
        answer = shared_stack.client.post("/files", data={**FORM, **extra}, files=files)
        assert (answer.status_code, answer.json()["code"]) == (422, "InvalidParameters")


def test_a_path_that_is_no_file_is_refused(shared_stack: Stack, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.mp4"):
        answer = shared_stack.client.post("/files", data={**FORM, "filename": str(path)})
        assert (answer.status_code, answer.json()["code"]) == (400, "InvalidParameters")


def test_a_form_of_too_many_fields_is_refused(shared_stack: Stack) -> None:
    fields = {f"field{i}": ("", "x") for i in range(1001)}
    answer = shared_stack.client.post("/files", files=fields)
    assert answer.status_code == 400
    assert "1000" in answer.json()["detail"]


def test_a_list_for_another_purpose_is_empty(shared_stack: Stack) -> None:
    assert shared_stack.client.get("/files?purpose=other").json() == {"data": [], "object": "list"}
    missing = shared_stack.client.get("/files").json()
    assert missing == {"code": "InvalidParameters", "message": "('query', 'purpose'): Field required"}


def test_unknown_paths_and_methods_answer_as_the_framework_does(shared_stack: Stack) -> None:
    unknown = shared_stack.client.get("/nothing")
    assert (unknown.status_code, unknown.json()) == (404, {"detail": "Not Found"})
    wrong = shared_stack.client.put("/files")
    assert (wrong.status_code, wrong.json()) == (405, {"detail": "Method Not Allowed"})
