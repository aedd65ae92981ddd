"""Clients that generators make from /openapi.json are made, their types checked, and called."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Stack

ROOT = Path(__file__).parents[2]
MODULES = Path(os.environ.get("NODE_MODULES", ROOT / "node_modules"))
PACKAGES = ["openapi-typescript@7", "openapi-fetch", "typescript@5", "@types/node"]
needs_node = pytest.mark.skipif(
    not (MODULES / "openapi-typescript").exists() or shutil.which("node") is None,
    reason=f"no TypeScript generator: npm install --no-save {' '.join(PACKAGES)}",
)
PROGRAM = """
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

const client = createClient<paths>({ baseUrl: process.argv[2] });
const texts = await client.POST("/v1/generate_text_embeddings", {
  body: { text_input: ["a red car", "a dog"], model: "null" },
});
const files = await client.GET("/v1/files", { params: { query: { purpose: "vision" } } });
const missing = await client.GET("/v1/files/{file_id}", {
  params: { path: { file_id: "00000000-0000-4000-8000-000000000000" } },
});
if (!texts.data || !("data" in texts.data)) throw new Error("answered later, which nobody asked for");
console.log(JSON.stringify({
  texts: texts.data.data.map((one) => one.text_input),
  files: files.data!.data.length,
  code: missing.error!.code,
}));
"""


@pytest.fixture(scope="module")
def document(shared_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document as this service serves it."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(shared_stack.client.get(f"{shared_stack.url}/openapi.json").text)
    return path


@pytest.fixture(scope="module")
def package(document: Path) -> Iterator[str]:
    """The name of a client package that openapi-python-client has made, importable."""
    folder, name = document.parent, "generated_rtvi_client"
    command = [
        str(Path(sys.executable).with_name("openapi-python-client")), "generate",
        "--path", str(document), "--output-path", str(folder / name), "--meta", "none",
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout, "something was left out of the client"
    sys.path.insert(0, str(folder))
    yield name
    sys.path.remove(str(folder))
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def test_a_python_client_does_the_main_job(shared_stack: Stack, package: str, film: Path) -> None:
    def api(name: str) -> Any:
        return importlib.import_module(f"{package}.api.{name}")

    models: Any = importlib.import_module(f"{package}.models")
    types: Any = importlib.import_module(f"{package}.types")
    made: Any = importlib.import_module(f"{package}.client")
    with made.Client(shared_stack.url, raise_on_unexpected_status=True, timeout=60) as client:
        assert api("health_check.ready").sync(client=client) == "Service is healthy"
        (model,) = api("models.list_models").sync(client=client).data
        with film.open("rb") as file:
            form = models.UploadForm(
                purpose=models.UploadFormPurpose.VISION,
                media_type=models.UploadFormMediaType.VIDEO,
                file=types.File(payload=file, file_name="film.mp4", mime_type="video/mp4"),
            )
            uploaded = api("files.add_file").sync(client=client, body=form)
        content = api("files.file_content").sync(client=client, file_id=uploaded.id)
        assert content.payload.read() == film.read_bytes()
        body = models.VideoRequest(id=str(uploaded.id), model=model.id, chunk_duration=10)
        answer = api("embeddings.generate_video_embeddings").sync(client=client, body=body)
        assert [chunk.start_time for chunk in answer.chunk_responses] == ["0.0", "10.0", "20.0"]
        assert len(answer.chunk_responses[0].embeddings) == 768
        texts = models.TextRequest(text_input=["a red car"], model=model.id)
        (text,) = api("embeddings.generate_text_embeddings").sync(client=client, body=texts).data
        assert text.text_input == "a red car"
        gone = api("files.delete_file").sync(client=client, file_id=uploaded.id)
        assert gone.deleted
        refused = api("files.file_info").sync(client=client, file_id=uploaded.id)
        assert refused.code == "BadParameter"


@needs_node
def test_a_typescript_client_is_typed_and_called(shared_stack: Stack, document: Path, tmp_path: Path) -> None:
    (tmp_path / "node_modules").symlink_to(MODULES.resolve())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "main.ts").write_text(PROGRAM)

    def run(*command: str) -> str:
        done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    bin_ = MODULES / ".bin"
    run(str(bin_ / "openapi-typescript"), str(document), "-o", "api.d.ts", "--default-non-nullable=false")
    options = ["--strict", "--module", "nodenext", "--target", "es2022", "--types", "node", "--skipLibCheck"]
    run(str(bin_ / "tsc"), *options, "main.ts")
    assert json.loads(run("node", "main.js", shared_stack.url)) == {
        "texts": ["a red car", "a dog"], "files": 0, "code": "BadParameter",
    }  # fmt: skip
