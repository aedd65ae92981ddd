"""The fleet as the gateway last read it: whether requests are served now, and by which model."""

import asyncio
import time
from collections.abc import Collection

import structlog

from shared import keys
from shared.errors import BadParameters, Unavailable
from shared.fleet import Fleet, ServedModel, read_fleet
from shared.redis.connection import Redis, RedisError, script
from shared.redis.failures import ReplicasBehind, WritesRefused

log = structlog.get_logger(__name__)

INTERVAL = 0.5
STALE = 3.0
"""Seconds without an answer from Redis after which it counts as away."""


class FleetView:
    """The last known fleet, refreshed in the background and read without waiting."""

    def __init__(self, redis: Redis, aliases: Collection[str] = ()) -> None:
        self._redis = redis
        self._aliases = frozenset(aliases)
        self._seen = -STALE
        self._failure = "no answer yet"
        self._refusal = ""
        self._ready: bool | None = None
        self.fleet = Fleet()

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self.refresh()
            self._say()
            await asyncio.sleep(INTERVAL)

    def _say(self) -> None:
        """Log when the service becomes ready, and when it no longer is."""
        problem = self.problem
        if self._ready is (not problem):
            return
        self._ready = not problem
        if problem:
            log.warning("gateway not ready", reason=problem)
        else:
            model = self.fleet.model.id if self.fleet.model else ""
            log.info("gateway ready", workers=len(self.fleet.workers), model=model)

    async def refresh(self) -> None:
        """Read the fleet now."""
        try:
            async with asyncio.timeout(STALE):
                self.fleet = await read_fleet(self._redis)
                self._refusal = await self._refused()
        except (RedisError, TimeoutError) as error:
            if not self._failure:
                log.error("redis is away", error=str(error) or "no answer in time")
            self._failure = str(error) or "no answer in time"
            return
        if self._failure and self._seen > 0:
            log.info("redis is back")
        self._failure, self._seen = "", time.monotonic()

    async def _refused(self) -> str:
        """Return why Redis takes no writes, or cannot replicate them; empty if it does."""
        try:
            await script(self._redis, "pulse").durably(keys=[keys.PULSE])
        except (WritesRefused, ReplicasBehind) as error:
            if not self._refusal:
                log.error("redis refuses writes", error=str(error))
            return str(error)
        return ""

    @property
    def redis_problem(self) -> str:
        """Why Redis counts as away, or takes no writes; empty while it is well."""
        if time.monotonic() - self._seen < STALE:
            return self._refusal
        return self._failure or "no answer in time"

    @property
    def problem(self) -> str:
        """Why a request sent now would not be served; empty if it would be."""
        if self.redis_problem:
            return f"redis is {'of no use now' if self._refusal else 'away'}: {self.redis_problem}"
        if self.fleet.ready:
            return ""
        if not self.fleet.workers:
            return "no worker is running"
        return "no worker is ready: " + ", ".join(
            f"{w.name} is {w.detail or w.state}" for w in self.fleet.workers
        )

    def model(self) -> ServedModel:
        """Return the loaded model, or the last one known. Raises Unavailable if none was ever loaded."""
        if self.fleet.model is None:
            raise Unavailable(self.problem or "no model was ever loaded")
        return self.fleet.model

    def named_model(self, name: str) -> str:
        """Return the id of the model that requests may call `name`: the loaded one's for its aliases."""
        return self.model().id if name in self._aliases else name

    def require_model(self, wanted: str) -> ServedModel:
        """Return the loaded model, whose id or alias must be `wanted`. Raises BadParameters otherwise."""
        model = self.model()
        if self.named_model(wanted) != model.id:
            raise BadParameters(f"No such model {wanted[:256]}; the loaded model is {model.id}")
        return model
