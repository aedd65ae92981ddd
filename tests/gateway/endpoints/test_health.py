import re

import pytest

from gateway.endpoints.health import running_on
from shared import keys
from shared.fleet import Worker
from shared.redis.connection import Redis
from shared.settings import Settings
from tests.gateway.conftest import Gateway, Serve
from tests.support import until


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "running"),  # a worker of an older version
        (
            {"backend": "cuda", "gpu": "NVIDIA L40S", "driver": "580.65", "engine": "v.engine, t.engine"},
            "running on NVIDIA L40S, driver 580.65, engine v.engine, t.engine",
        ),
        (
            {"backend": "python", "gpu": "NVIDIA L40S", "driver": "580.65"},
            "running on NVIDIA L40S, driver 580.65",
        ),
        (
            {"backend": "cpu", "backend_wanted": "auto", "backend_reason": "the NVIDIA driver shows no GPU"},
            "running on the CPU: RTEMBED_BACKEND=auto, but the NVIDIA driver shows no GPU",
        ),
        (
            {"backend": "cpu", "backend_wanted": "cpu", "backend_reason": "RTEMBED_BACKEND=cpu"},
            "running on the CPU: RTEMBED_BACKEND=cpu",
        ),
    ],
)
def test_what_a_worker_runs_on_is_said(told: dict[str, str], said: str) -> None:
    assert running_on(Worker(name="w", state="ready", **told)) == said  # type: ignore[arg-type] # texts


@pytest.mark.usefixtures("worker")
async def test_messages_that_their_bus_does_not_take_are_told(
    serve: Serve, settings: Settings, redis: Redis
) -> None:
    async def told(gateway: Gateway) -> list[tuple[bool, str]]:
        await until(lambda: gateway.context.view.fleet.ready)
        answer = await gateway.client.get("/ready?detailed=true")
        assert answer.status_code == 200, "texts and films are served meanwhile"
        return [
            (c["healthy"], c["message"]) for c in answer.json()["checks"] if c["component"] == "message bus"
        ]

    async with serve(settings) as gateway:
        assert await told(gateway) == [(True, "no message waits for long")]
        now, _ = await redis.time()
        for second in (now - 100, now):
            await redis.xadd(keys.OUTBOX, {"key": "k"}, id=f"{second * 1000}-0")
        ((healthy, message),) = await told(gateway)
    assert not healthy
    assert re.fullmatch(
        r"2 messages wait for their bus, the oldest for 10\d s: it does not take them", message
    )
