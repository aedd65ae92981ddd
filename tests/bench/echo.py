"""A bare Starlette application that answers with the body of one text embedding, and nothing else."""

import sys

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

VECTOR = [(i % 200 - 100) / 977 for i in range(768)]


async def echo(request: Request) -> Response:
    """Parse, and answer with 768 numbers per text, as the service does."""
    body = msgspec.json.decode(await request.body())
    data = [{"text_input": text, "embeddings": VECTOR} for text in body["text_input"]]
    answer = {"id": "0", "created": 0, "model": body["model"], "data": data}
    return Response(msgspec.json.encode(answer), media_type="application/json")


if __name__ == "__main__":
    app = Starlette(routes=[Route("/v1/generate_text_embeddings", echo, methods=["POST"])])
    uvicorn.run(
        app, port=int(sys.argv[1]), loop="uvloop", http="httptools", log_config=None, access_log=False
    )
