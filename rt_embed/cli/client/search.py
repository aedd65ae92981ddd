"""`rt-embed text` and `rt-embed search`: vectors of sentences, and the chunks nearest to them."""

import heapq
import math
from array import array
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from rt_embed import SearchHit, ServiceError, Vector
from rt_embed.calls import Call
from rt_embed.cli.client.service_options import ServiceCommand, Session, service_commands, session
from rt_embed.cli.client.vector_files import VectorRow, encode_vector, read_rows, require_format, write_rows
from rt_embed.cli.terminal import CommandFailed, ExitStatus, table, terminal

app = service_commands()


@app.command("text", cls=ServiceCommand)
def text(
    context: typer.Context,
    texts: Annotated[list[str], typer.Argument(help="Sentences.")],
    *,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="A .jsonl, .npy or .parquet file for the vectors.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Default: the one that is loaded.")] = None,
) -> None:
    """Embed sentences. Shows how similar they are; --json or --out gives the vectors."""
    here = session(context)
    here.offer_curl(
        Call("POST", "/v1/generate_text_embeddings", json={"text_input": texts, "model": model or "MODEL"})
    )
    if out:
        require_format(out)
    with here.client() as client:
        vectors = client.embed_texts(texts, model=model)
    if out:
        write_rows(out, [_text_row(text, vector) for text, vector in zip(texts, vectors, strict=True)])
        terminal.note(f"{len(texts)} vectors in {out}")
        return
    found = [
        {"text": text, "vector": [float(value) for value in vector]}
        for text, vector in zip(texts, vectors, strict=True)
    ]
    here.show(found, lambda: table(_alike(texts, vectors)))


def _text_row(text: str, vector: Vector) -> VectorRow:
    return VectorRow(
        source=text,
        asset_id="",
        start=0.0,
        end=0.0,
        start_time="",
        end_time="",
        vector=encode_vector(vector),
    )


def _alike(texts: list[str], vectors: list[Vector]) -> list[dict[str, Any]]:
    """Return a row for each text: its dimensions, and its cosine with every other one."""
    rows = []
    for index, (sentence, vector) in enumerate(zip(texts, vectors, strict=True)):
        cosines = {
            f"like {other + 1}": f"{cosine(vector, vectors[other]):.3f}"
            for other in range(len(texts))
            if len(texts) > 1
        }
        rows.append({"": index + 1, "text": sentence, "dimensions": len(vector), **cosines})
    return rows


@app.command("search", cls=ServiceCommand)
def search(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(help="What to look for, in words.")] = None,
    *,
    inside: Annotated[
        Path | None,
        typer.Option(
            "-i", "--in", help="A file of `rt-embed embed --out`. Default: the service's own index."
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", help="Look for this picture: a file or URL.")
    ] = None,
    top: Annotated[int, typer.Option("-n", "--top", min=1, help="How many.")] = 10,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Leave out chunks with a lower score.")
    ] = None,
    camera: Annotated[
        list[str] | None, typer.Option("--camera", help="Only this camera; may be repeated.")
    ] = None,
) -> None:
    """Find the chunks most similar to a sentence or a picture, best first."""
    here = session(context)
    if (query is None) == (image is None):
        raise CommandFailed("give a sentence, or --image", ExitStatus.WRONG_USE)
    if inside and camera:
        raise CommandFailed("--camera needs the service's own index, so no --in", ExitStatus.WRONG_USE)
    if inside:
        here.offer_curl(
            Call("POST", "/v1/generate_text_embeddings", json={"text_input": query, "model": "MODEL"})
        )
        found = _in_file(here, inside, query, image, top=top, min_score=min_score)
    else:
        filters = {"cameras": camera, "min_score": min_score, "thumbnails": False}
        found = _in_service(here, query, image, top, {k: v for k, v in filters.items() if v is not None})
    here.show(found, lambda: _drawn(found))


def _drawn(found: list[dict[str, Any]]) -> RenderableType:
    rows = [{**hit, "score": f"{hit['score']:.3f}"} for hit in found]
    return table(rows) if rows else "nothing found"


def _in_file(
    here: Session, path: Path, query: str | None, image: str | None, *, top: int, min_score: float | None
) -> list[dict[str, Any]]:
    rows = read_rows(path)
    with here.client() as client:
        wanted = client.embed_images([image])[0] if image else client.embed_texts([query or ""])[0]
    scored = ((cosine(wanted, row.values), row) for row in rows)
    kept = ((score, row) for score, row in scored if min_score is None or score >= min_score)
    best = heapq.nlargest(top, kept, key=lambda pair: pair[0])
    return [
        {"score": round(score, 3), "source": row.source, "start": row.start_time, "end": row.end_time}
        for score, row in best
    ]


def _in_service(
    here: Session, query: str | None, image: str | None, top: int, filters: dict[str, Any]
) -> list[dict[str, Any]]:
    here.offer_curl(Call("POST", "/v1/search", json={"text": query, "top_k": top, **filters}))
    try:
        with here.client() as client:
            hits = client.search(query, image=image, top_k=top, **filters)
    except ServiceError as error:
        if error.status not in {404, 501}:
            raise
        raise CommandFailed(
            f"{here.url} has no index to search ({error.message}); "
            "search a file of `rt-embed embed --out` with --in"
        ) from error
    return [_hit(hit) for hit in hits]


def _hit(hit: SearchHit) -> dict[str, Any]:
    return {
        "score": round(hit.score, 3),
        "source": hit.name or hit.asset,
        "start": hit.start_time if hit.start is None else hit.start,
        "end": hit.end_time if hit.end is None else hit.end,
        "asset": hit.asset,
    }


def cosine(one: Vector, other: Vector) -> float:
    """Return the cosine of two vectors; 0 if one of them is zero."""
    if len(one) != len(other):
        raise CommandFailed(
            f"vectors of {len(other)} dimensions cannot be compared with {len(one)}: another model?"
        )
    if isinstance(one, array):  # there is no NumPy
        product = _dot(one, other)
        lengths = _dot(one, one) * _dot(other, other)
    else:
        product = float(one @ other)
        lengths = float(one @ one) * float(other @ other)
    return product / math.sqrt(lengths) if lengths else 0.0


def _dot(one: Vector, other: Vector) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))
