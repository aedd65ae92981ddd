"""What somebody would write in an hour instead: one process, the same graph in a session of ONNX Runtime with
its own defaults, texts batched up to 32 in a thread.

    python -m tests.bench.handwritten PORT MODEL_DIRECTORY
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime as ort
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from worker.models.directory import ModelDirectory, load_model_directory
from worker.models.tokenizer import TextTokenizer

MOST = 32


class Model:
    """A tokenizer and a session."""

    def __init__(self, directory: ModelDirectory) -> None:
        self._tokenizer = TextTokenizer(directory.tokenizer, directory.info.max_text_tokens)
        self._session = ort.InferenceSession(directory.text, providers=["CPUExecutionProvider"])

    def embed(self, texts: Sequence[str]) -> NDArray[Any]:
        """float32 [len(texts), dimension]."""
        input_ids, attention_mask = self._tokenizer(texts)
        vectors: NDArray[Any] = self._session.run(
            None, {"input_ids": input_ids, "attention_mask": attention_mask}
        )[0]
        return vectors


def make_app(model: Model) -> Starlette:
    """The application, around one queue and one thread."""
    waiting: asyncio.Queue[tuple[str, asyncio.Future[NDArray[Any]]]] = asyncio.Queue()

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:
            while True:
                batch = [await waiting.get()]
                while len(batch) < MOST and not waiting.empty():
                    batch.append(waiting.get_nowait())
                vectors = await loop.run_in_executor(thread, model.embed, [text for text, _ in batch])
                for (_, future), vector in zip(batch, vectors, strict=True):
                    if not future.done():
                        future.set_result(vector)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(serve())
        yield
        task.cancel()

    async def embed(request: Request) -> Response:
        body = msgspec.json.decode(await request.body())
        futures = []
        for text in body["text_input"]:
            future: asyncio.Future[NDArray[Any]] = asyncio.get_running_loop().create_future()
            waiting.put_nowait((text, future))
            futures.append(future)
        vectors = await asyncio.gather(*futures)
        data = [
            {"text_input": text, "embeddings": vector.tolist()}
            for text, vector in zip(body["text_input"], vectors, strict=True)
        ]
        answer = {"id": "0", "created": 0, "model": body["model"], "data": data}
        return Response(msgspec.json.encode(answer), media_type="application/json")

    return Starlette(
        routes=[Route("/v1/generate_text_embeddings", embed, methods=["POST"])], lifespan=lifespan
    )


if __name__ == "__main__":
    app = make_app(Model(load_model_directory(Path(sys.argv[2]))))
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", log_config=None, access_log=False
    )
