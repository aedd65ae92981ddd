"""Valkey in its larger forms for the tests: a primary with replicas, Sentinels beside them, a cluster."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis import Redis
from redis.crc import key_slot

from shared.keys import PREFIX
from tests.support import RedisServer, free_port, valkey_binary

SLOTS = 16384
OUR_SLOT = key_slot(PREFIX.encode())
NAME = "rtembed"


def wait(condition: Callable[[], Any], what: str, timeout: float = 30.0) -> None:
    """Wait until calling `condition` gives something true; errors of Redis count as false."""
    deadline = time.monotonic() + timeout
    while True:
        with contextlib.suppress(Exception):
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


def ask(server: RedisServer, *command: str | int) -> Any:
    """The answer of one server to one command."""
    with Redis(port=server.port, socket_timeout=5) as client:
        return client.execute_command(*command)


def role(server: RedisServer) -> str:
    """`master` or `slave`."""
    return str(ask(server, "ROLE")[0].decode())


def is_connected(replica: RedisServer) -> bool:
    """Whether a replica follows its primary."""
    return bool(ask(replica, "ROLE")[3] == b"connected")


class ReplicaPair:
    """A primary and its replicas."""

    def __init__(self, folder: Path, replicas: int = 1, *options: str) -> None:
        self.servers = []
        for number in range(replicas + 1):
            own = folder / f"server{number}"
            own.mkdir()
            self.servers.append(
                RedisServer(valkey_binary(), own, "--repl-diskless-sync-delay", "0", *options)
            )
        self.primary = self.servers[0]

    @property
    def replicas(self) -> list[RedisServer]:
        return [server for server in self.servers if server is not self.primary]

    def start(self) -> None:
        for server in self.servers:
            server.start()
        for replica in self.replicas:
            self.follow(replica)
        wait(lambda: all(map(is_connected, self.replicas)), "replicas that are connected")

    def follow(self, replica: RedisServer) -> None:
        ask(replica, "REPLICAOF", "127.0.0.1", self.primary.port)

    def switch(self) -> None:
        """Promote the first replica; the old primary, which keeps its connections open, follows it."""
        old, self.primary = self.primary, self.replicas[0]
        ask(self.primary, "REPLICAOF", "NO", "ONE")
        ask(old, "REPLICAOF", "127.0.0.1", self.primary.port)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


class SentinelServer(RedisServer):
    """One Sentinel."""

    def __init__(self, folder: Path, primary: RedisServer, quorum: int, *lines: str) -> None:
        super().__init__(valkey_binary(), folder)
        self.configuration = folder / "sentinel.conf"
        self.configuration.write_text(
            "\n".join(
                [
                    f"port {self.port}",
                    "bind 127.0.0.1",
                    f"dir {folder}",
                    f"sentinel monitor {NAME} 127.0.0.1 {primary.port} {quorum}",
                    f"sentinel down-after-milliseconds {NAME} 500",
                    f"sentinel failover-timeout {NAME} 3000",
                    *lines,
                    "",
                ]
            )
        )
        self.command = [str(valkey_binary()), str(self.configuration), "--sentinel"]


class SentinelPair(ReplicaPair):
    """A primary and replicas with three Sentinels, which promote a replica when the primary dies."""

    def __init__(self, folder: Path, *lines: str, replicas: int = 1) -> None:
        super().__init__(folder, replicas)
        self.sentinels = []
        for number in range(3):
            own = folder / f"sentinel{number}"
            own.mkdir()
            self.sentinels.append(SentinelServer(own, self.primary, 2, *lines))
        self.environment = {
            "REDIS_SENTINELS": ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels),
            "REDIS_SENTINEL_MASTER": NAME,
        }

    def start(self) -> None:
        super().start()
        for sentinel in self.sentinels:
            sentinel.start()
        wait(self._complete, "Sentinels that know each other and the replicas")

    def _complete(self) -> bool:
        def known(sentinel: RedisServer, what: str) -> int:
            return len(ask(sentinel, "SENTINEL", what, NAME))

        replicas = len(self.replicas)
        return all(known(s, "SENTINELS") == 2 and known(s, "REPLICAS") == replicas for s in self.sentinels)

    def named(self) -> int:
        """The port of the primary, as the first Sentinel says."""
        return int(ask(self.sentinels[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)[1])

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        super().stop()


class Cluster:
    """Three primaries, of which one owns our slot and has a replica."""

    def __init__(self, folder: Path) -> None:
        self.servers = []
        for number in range(4):
            own = folder / f"node{number}"
            own.mkdir()
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port")
            self.servers.append(RedisServer(valkey_binary(), own, *options, str(free_port())))
        self.environment = {
            "REDIS_CLUSTER": "true",
            "REDIS_HOST": ",".join(f"127.0.0.1:{server.port}" for server in self.servers[:3]),
        }

    def start(self) -> None:
        for server in self.servers:
            server.start()
        first = self.servers[0]
        for number, server in enumerate(self.servers[:3]):
            low, high = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            ask(server, "CLUSTER", "ADDSLOTSRANGE", low, high)
            ask(server, "CONFIG", "SET", "cluster-require-full-coverage", "no")
        for number, server in enumerate(self.servers):
            ask(server, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if server is not first:
                bus = server.command[server.command.index("--cluster-port") + 1]
                ask(first, "CLUSTER", "MEET", "127.0.0.1", server.port, int(bus))
        wait(lambda: all(self._ok(s) for s in self.servers), "nodes that know each other")
        replica = self.servers[3]
        ask(replica, "CLUSTER", "REPLICATE", ask(self.owner(), "CLUSTER", "MYID").decode())
        wait(lambda: ask(replica, "ROLE")[3] == b"connected", "a replica that is connected")

    def _ok(self, server: RedisServer) -> bool:
        info = ask(server, "CLUSTER", "INFO")
        return b"cluster_state:ok" in info and b"cluster_known_nodes:4" in info

    def owner(self) -> RedisServer:
        """The node that owns our slot, as the first living node says."""
        for server in self.servers:
            with contextlib.suppress(Exception):
                for first, last, primary, *_ in ask(server, "CLUSTER", "SLOTS"):
                    if first <= OUR_SLOT <= last:
                        return next(s for s in self.servers if s.port == primary[1])
        raise LookupError("no node owns our slot")

    def stop(self) -> None:
        for server in self.servers:
            server.stop()
