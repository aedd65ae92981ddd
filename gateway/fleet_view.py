"""The fleet as the gateway last read it: whether requests can be served, and by which models."""

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
        self._aliases = {name: of for name, _, of in (alias.partition("=") for alias in aliases)}
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
            served = ", ".join(model.id for model in self.fleet.models)
            log.info("gateway ready", workers=len(self.fleet.workers), model=served)

    async def refresh(self) -> None:
        """Read the fleet now."""
        try:
            async with asyncio.timeout(STALE):
                self.fleet = await read_fleet(self._redis)
                self._refusal = await self._refused()
        except (RedisError, TimeoutError) as error:
            if not self._failure:
                log.error("redis is away", error=str(error) or "no answer in time")
            self._failure = f"it does not answer: {error}" if str(error) else "no answer in time"
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
            return f"redis is {'unusable now' if self._refusal else 'away'}: {self.redis_problem}"
        if self.fleet.ready:
            return ""
        if not self.fleet.workers:
            return "no worker is running"
        return "no worker is ready: " + ", ".join(
            f"{w.name} is {w.detail or w.state}" for w in self.fleet.workers
        )

    @property
    def models(self) -> list[ServedModel]:
        """The models that ready workers serve, those loaded first before others, or the last one known."""
        return self.fleet.models or ([self.fleet.model] if self.fleet.model else [])

    def model(self) -> ServedModel:
        """Return the first of `models`. Raises Unavailable if none was ever loaded."""
        if not self.models:
            raise Unavailable(self.problem or "no model has been loaded yet")
        return self.models[0]

    def named_model(self, name: str) -> str:
        """Return the id of the model that requests may call `name`: the first one's for a plain alias."""
        if name not in self._aliases:
            return name
        return self._aliases[name] or self.model().id

    def aliases(self, model: ServedModel) -> list[str]:
        """Return the names by which requests may name `model` beside its id."""
        first = self.model().id
        return [name for name, of in self._aliases.items() if (of or first) == model.id]

    def require_model(self, wanted: str) -> ServedModel:
        """Return the model whose id or alias is `wanted`.

        Raises BadParameters if no worker has it, Unavailable if those that have it are not ready.
        """
        name = self.named_model(wanted)
        model = next((model for model in self.models if model.id == name), None)
        if model is None and self.models:
            waiting = [w for w in self.fleet.workers if w.model and w.model.id == name]
            if waiting:
                told = ", ".join(f"{w.name} is {w.detail or w.state}" for w in waiting)
                raise Unavailable(f"no worker with the model {name[:256]} is ready: {told}")
            served = ", ".join(model.id for model in self.models)
            raise BadParameters(f"No such model {wanted[:256]}; the loaded model is {served}")
        return model or self.model()
