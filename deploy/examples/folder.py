"""Embed every film of a folder, four at a time, into a file of JSON lines: python folder.py FOLDER OUT.jsonl

`rt-embed embed FOLDER --out OUT.jsonl` does the same, and goes on where it was after an interruption.
"""

import asyncio
import json
import sys
from pathlib import Path

from rt_embed import AsyncClient, ClientError

AT_ONCE = 4


def films_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".mp4", ".mov", ".mkv"})


async def main(films: list[Path], out: Path) -> int:
    seats = asyncio.Semaphore(AT_ONCE)
    failed = 0

    async with AsyncClient() as client:
        with out.open("w") as file:

            async def embed(film: Path) -> None:
                nonlocal failed
                async with seats:
                    try:
                        async for chunk in client.embed_video(film, chunk_duration=10, keep=False):
                            row = {"film": str(film), "start": chunk.start, "end": chunk.end}
                            file.write(json.dumps({**row, "vector": chunk.vector.tolist()}) + "\n")
                    except ClientError as error:  # this film only
                        print(f"{film}: {error}", file=sys.stderr)
                        failed += 1

            async with asyncio.TaskGroup() as tasks:
                for film in films:
                    tasks.create_task(embed(film))
    print(f"{len(films) - failed} of {len(films)} films in {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(films_in(Path(sys.argv[1])), Path(sys.argv[2]))))
