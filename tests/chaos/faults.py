"""The faults: each has a name, a way of doing it to a site, and a way of undoing it.

`FAULTS` lists those that a campaign draws from; a fault knows on which kinds of site it can be done.
"""

import contextlib
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from tests.chaos.parts import Part
from tests.chaos.site import KINDS, Site, false_clock_library
from tests.redis_servers import ReplicaPair, SentinelPair, ask, wait
from tests.support import RedisServer

ALONE = ("one",)
PAIRS = ("pair",)
PROXIED = (*ALONE, *PAIRS)


class Fault(ABC):
    """Something that goes wrong for a while. One object is one time."""

    name = ""
    kinds: Sequence[str] = KINDS
    """The kinds of site on which it can be done."""
    hold = (1.0, 3.0)
    """At least and at most so many seconds pass between doing and undoing."""
    outage = True
    """Whether nobody is served until it is undone: recovery is counted from then, else from the doing."""
    may_lose = False
    """Whether the last writes may be lost, as replication is asynchronous, unless the service waits."""
    waiting_helps = True
    """Whether waiting for one replica prevents that."""
    victim = ""
    """What was hit, once it is done."""

    def lacks(self, site: Site) -> str:
        """Why it cannot be done on this machine, or nothing."""
        return ""

    @abstractmethod
    def do(self, site: Site, rng: random.Random) -> None:
        """Do it, to whatever the random numbers choose."""

    @abstractmethod
    def undo(self, site: Site) -> None:
        """Put it right, as an operator, an orchestrator or time does."""


# Processes ---------------------------------------------------------------------------------------------


class ServiceFault(Fault):
    """Something that is done to one gateway or worker of two, which starts again afterwards."""

    outage = False
    hold = (0.5, 4.0)

    def __init__(self, of: str) -> None:
        self.name = f"{self.name} a {of}"
        self._of = of
        self._part: Part | None = None

    def do(self, site: Site, rng: random.Random) -> None:
        part = site.parts[rng.choice([name for name in sorted(site.parts) if name.startswith(self._of)])]
        self._part, self.victim = part, part.name
        self.hit(part)

    def hit(self, part: Part) -> None:
        raise NotImplementedError

    def undo(self, site: Site) -> None:
        assert self._part
        self._part.wait()
        self._part.start()


class Kill(ServiceFault):
    name = "kill -9 of"

    def hit(self, part: Part) -> None:
        part.kill()


class Stop(ServiceFault):
    name = "SIGTERM to"

    def hit(self, part: Part) -> None:
        part.terminate()


class Freeze(ServiceFault):
    """SIGSTOP, longer than a worker may be silent."""

    name = "SIGSTOP of"
    hold = (2.0, 9.0)

    def hit(self, part: Part) -> None:
        part.freeze()

    def undo(self, site: Site) -> None:
        assert self._part
        self._part.thaw()


class KillDecoder(Fault):
    name = "kill -9 of the decoders of a worker"
    outage = False
    hold = (0.5, 1.0)

    def do(self, site: Site, rng: random.Random) -> None:
        part = site.parts[rng.choice(site.workers)]
        decoders = [process for process in part.tree() if is_decoder(process)]
        self.victim = f"{len(decoders)} of {part.name}"
        for process in decoders:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def undo(self, site: Site) -> None:
        pass  # the worker has started others


def is_decoder(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("decoder_process" in word for word in process.cmdline())
    return False


class KillRedis(Fault):
    name = "kill -9 of Redis"
    kinds = ALONE

    def do(self, site: Site, rng: random.Random) -> None:
        site.redis[0].kill()

    def undo(self, site: Site) -> None:
        site.redis[0].start()


class FreezeRedis(Fault):
    name = "SIGSTOP of Redis"
    kinds = PROXIED
    hold = (1.0, 8.0)

    def do(self, site: Site, rng: random.Random) -> None:
        self._server = site.primary()
        self._server.freeze()

    def undo(self, site: Site) -> None:
        self._server.thaw()


class FreezeBroker(Fault):
    name = "SIGSTOP of the Kafka brokers"
    outage = False
    hold = (2.0, 8.0)

    def do(self, site: Site, rng: random.Random) -> None:
        site.broker.freeze()

    def undo(self, site: Site) -> None:
        site.broker.thaw()


class BrokersAway(Fault):
    name = "Kafka brokers away"
    outage = False
    hold = (2.0, 8.0)

    def do(self, site: Site, rng: random.Random) -> None:
        site.broker.tell("down")

    def undo(self, site: Site) -> None:
        site.broker.tell("up")


class RestartEverything(Fault):
    name = "kill -9 and restart of everything"

    def do(self, site: Site, rng: random.Random) -> None:
        for part in (*site.parts.values(), *site.redis):
            part.kill()

    def undo(self, site: Site) -> None:
        for redis in site.redis:
            redis.start()
        if isinstance(site.servers, ReplicaPair) and not isinstance(site.servers, SentinelPair):
            site.servers.follow(site.servers.replicas[0])
        for part in site.parts.values():
            part.start()


# Connections -------------------------------------------------------------------------------------------


class LinkFault(Fault):
    """Something that the proxy does to the connections of one process, or of all."""

    def __init__(self, mode: str, to: str, *seconds: float) -> None:
        self.name = f"{mode.replace('_', ' ')}: {to}"
        self._mode, self._seconds = mode, seconds
        self._to_redis = to.endswith("Redis")
        self.kinds = PROXIED if self._to_redis else KINDS

    def do(self, site: Site, rng: random.Random) -> None:
        ends = "-redis" if self._to_redis else ""
        links = [name for name in site.links if name in {f"{part}{ends}" for part in site.parts}]
        self._links = links if rng.random() < 0.5 else [rng.choice(links)]
        self.victim = ", ".join(self._links)
        for name in self._links:
            site.proxy.tell(self._mode, name, *self._seconds)

    def undo(self, site: Site) -> None:
        for name in self._links:
            site.proxy.tell("pass", name)


# Redis that refuses writes, or moves -------------------------------------------------------------------


class RedisFull(Fault):
    name = "Redis full (OOM)"
    hold = (2.0, 10.0)

    def do(self, site: Site, rng: random.Random) -> None:
        self._server = site.primary().server
        ask(self._server, "CONFIG", "SET", "maxmemory", 1)

    def undo(self, site: Site) -> None:
        ask(self._server, "CONFIG", "SET", "maxmemory", 0)


class RedisCannotSave(Fault):
    """MISCONF: a directory stands where the snapshot belongs."""

    name = "Redis cannot save (MISCONF)"
    kinds = ALONE
    hold = (2.0, 10.0)

    def do(self, site: Site, rng: random.Random) -> None:
        server = site.primary().server
        (site.redis_disk.folder / "dump.rdb").mkdir()
        ask(server, "CONFIG", "SET", "save", "3600 1000000000")
        ask(server, "BGSAVE")
        wait(lambda: saved(server) == "err", "a failed save")

    def undo(self, site: Site) -> None:
        server = site.primary().server
        (site.redis_disk.folder / "dump.rdb").rmdir()
        ask(server, "CONFIG", "SET", "save", "")
        ask(server, "BGSAVE")
        wait(lambda: saved(server) == "ok", "a save")
        (site.redis_disk.folder / "dump.rdb").unlink()


def saved(server: RedisServer) -> str:
    """How the last snapshot ended: `ok` or `err`."""
    return str(ask(server, "INFO", "persistence")["rdb_last_bgsave_status"])


class TooFewReplicas(Fault):
    name = "too few replicas (NOREPLICAS)"
    hold = (2.0, 6.0)

    def do(self, site: Site, rng: random.Random) -> None:
        self._server = site.primary().server
        ask(self._server, "CONFIG", "SET", "min-replicas-to-write", 9)

    def undo(self, site: Site) -> None:
        ask(self._server, "CONFIG", "SET", "min-replicas-to-write", 0)


class Demotion(Fault):
    """The primary becomes a replica, keeps its connections open, and answers READONLY."""

    name = "demotion with open connections (READONLY)"
    may_lose = True
    kinds = PAIRS
    hold = (1.0, 2.0)
    outage = False

    def do(self, site: Site, rng: random.Random) -> None:
        assert isinstance(site.servers, ReplicaPair)
        caught_up(site.servers)
        site.servers.switch()
        lead(site)

    def undo(self, site: Site) -> None:
        assert isinstance(site.servers, ReplicaPair)
        caught_up(site.servers)


class LaggingReplica(Fault):
    """The replica hears nothing for a while; then the primary dies and the replica takes its place."""

    name = "failover to a replica that lags"
    may_lose = True
    kinds = PAIRS
    hold = (1.0, 2.0)

    def do(self, site: Site, rng: random.Random) -> None:
        assert isinstance(site.servers, ReplicaPair)
        (replica,) = site.servers.replicas
        site.proxy.tell("target", "replication", site.servers.primary.port)
        ask(replica, "REPLICAOF", "127.0.0.1", site.links["replication"])
        caught_up(site.servers)
        site.proxy.tell("black_hole", "replication")

    def undo(self, site: Site) -> None:
        assert isinstance(site.servers, ReplicaPair)
        old, new = site.primary(), site.servers.replicas[0]
        old.kill()
        ask(new, "REPLICAOF", "NO", "ONE")
        site.servers.primary = new
        lead(site)
        site.proxy.tell("pass", "replication")
        old.start()
        site.servers.follow(old.server)
        caught_up(site.servers)


def caught_up(pair: ReplicaPair) -> None:
    """Wait until the replica is connected."""
    wait(lambda: ask(pair.replicas[0], "ROLE")[3] == b"connected", "a replica that is connected")


def lead(site: Site) -> None:
    """New connections go to the present primary, as behind a name or an address that moves."""
    for name in site.links:
        if name.endswith("-redis"):
            site.proxy.tell("target", name, site.primary().server.port)


class KillPrimary(Fault):
    name = "kill -9 of the primary, a replica takes over"
    may_lose = True
    kinds = ("sentinel", "cluster")
    hold = (3.0, 6.0)
    outage = False

    def do(self, site: Site, rng: random.Random) -> None:
        self._part = site.primary()
        self._part.kill()

    def undo(self, site: Site) -> None:
        wait(lambda: site.primary() is not self._part, "another primary")
        self._part.start()
        wait(lambda: ask(self._part.server, "ROLE")[3] == b"connected", "the old primary as a replica")


class ClusterFailover(Fault):
    """A failover that was asked for, as before maintenance."""

    name = "CLUSTER FAILOVER"
    kinds: Sequence[str] = ("cluster",)
    hold = (2.0, 4.0)
    outage = False

    def do(self, site: Site, rng: random.Random) -> None:
        self._old = site.primary()
        self.ask(site)

    def ask(self, site: Site) -> None:
        ask(replica_of(site, self._old.server), "CLUSTER", "FAILOVER")

    def undo(self, site: Site) -> None:
        wait(lambda: site.primary() is not self._old, "another primary")
        wait(lambda: ask(self._old.server, "ROLE")[3] == b"connected", "the old primary as a replica")


class SentinelFailover(ClusterFailover):
    """The old primary takes writes until it hears of the new one; they are lost. A second replica, which
    follows the old one until then, confirms them."""

    name = "SENTINEL FAILOVER"
    kinds = ("sentinel",)
    may_lose = True
    waiting_helps = False

    def ask(self, site: Site) -> None:
        assert isinstance(site.servers, SentinelPair)
        ask(site.servers.sentinels[0], "SENTINEL", "FAILOVER", "rtembed")


def replica_of(site: Site, primary: Any) -> Any:
    """The server that replicates this one."""
    servers = [part.server for part in site.redis]
    return next(s for s in servers if (r := ask(s, "ROLE"))[0] == b"slave" and r[2] == primary.port)


# Clocks and disks --------------------------------------------------------------------------------------


class ClockJump(Fault):
    """Redis's clock jumps, and back again."""

    kinds = ALONE
    hold = (2.0, 6.0)
    outage = False

    def __init__(self, seconds: int) -> None:
        self.name = f"Redis's clock jumps by {seconds:+} s"
        self._seconds = seconds

    def lacks(self, site: Site) -> str:
        return "" if false_clock_library() else "libfaketime is not installed"

    def do(self, site: Site, rng: random.Random) -> None:
        self._set(site, self._seconds)

    def undo(self, site: Site) -> None:
        self._set(site, 0)

    @staticmethod
    def _set(site: Site, seconds: int) -> None:
        site.clock.write_text(f"{seconds:+}\n")
        said, _ = ask(site.redis[0].server, "TIME")
        assert abs(int(said) - time.time() - seconds) < 5, "Redis's clock does not obey"


class DiskFull(Fault):
    """The disk of the uploaded files, or that of Redis's append-only file, is full."""

    hold = (2.0, 6.0)

    def __init__(self, of: str) -> None:
        self.name = f"disk full: {of}"
        self._of_redis = of == "Redis"
        self.kinds = ALONE if self._of_redis else KINDS
        self.outage = self._of_redis

    def lacks(self, site: Site) -> str:
        return "" if site.assets.mounted and site.redis_disk.mounted else "this user may mount no memory disk"

    def do(self, site: Site, rng: random.Random) -> None:
        (site.redis_disk if self._of_redis else site.assets).fill()

    def undo(self, site: Site) -> None:
        (site.redis_disk if self._of_redis else site.assets).free()


# All ---------------------------------------------------------------------------------------------------

Make = Callable[[], Fault]


@dataclass(frozen=True)
class _Of:
    """Makes faults of one class with these arguments."""

    of: Callable[..., Fault]
    arguments: tuple[Any, ...] = ()

    def __call__(self) -> Fault:
        return self.of(*self.arguments)


FAULTS: tuple[Make, ...] = (
    *(_Of(fault, (part,)) for fault in (Kill, Stop, Freeze) for part in ("gateway", "worker")),
    *map(_Of, (KillDecoder, KillRedis, FreezeRedis, FreezeBroker, BrokersAway, RestartEverything)),
    *(
        _Of(LinkFault, (mode, to, *seconds))
        for to in ("services to Redis", "clients to gateways")
        for mode, *seconds in (
            ("cut",), ("half_close",), ("black_hole",), ("delay", 0.3), ("accept_and_reset",)
        )
    ),
    *map(_Of, (RedisFull, RedisCannotSave, TooFewReplicas)),
    *map(_Of, (Demotion, LaggingReplica, KillPrimary, ClusterFailover, SentinelFailover)),
    *(_Of(ClockJump, (seconds,)) for seconds in (60, -60)),
    *(_Of(DiskFull, (of,)) for of in ("Redis", "files")),
)  # fmt: skip
"""What makes a fault, one for each name."""


def faults_for(kind: str) -> list[Make]:
    """What makes the faults that can be done on this kind of site."""
    return [make for make in FAULTS if kind in make().kinds]
