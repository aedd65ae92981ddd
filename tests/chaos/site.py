"""The whole service, each part a process: Redis in one of its forms, brokers, a proxy, gateways, workers.

Whatever a fault needs is reached from here: `parts` by name, `primary`, the links of the proxy, the disks.
"""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.chaos.parts import Part, RedisPart, ServicePart, ToldPart
from tests.redis_servers import Cluster, ReplicaPair, SentinelPair
from tests.support import RedisServer, free_port, valkey_binary

NULL_MODEL = Path(__file__).parents[1] / "models" / "null"
TOPIC = "mdx-embed"
GATEWAYS, WORKERS = 2, 2
PATIENCE = 60.0
KINDS = ("one", "pair", "sentinel", "cluster")
"""Forms of Redis. With WAITING behind it, the service waits for a replica (RTEMBED_REDIS_REPLICAS=1)."""
WAITING = ", waiting"


class SmallDisk:
    """A folder on a memory disk of its own that can be filled, if this process may mount one."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        self.mounted = not subprocess.run(command, capture_output=True, check=False).returncode

    def fill(self) -> None:
        with contextlib.suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 16)):
                pass

    def free(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class Site:
    """The service on one kind of Redis. Clients reach gateways through the proxy, and so do services Redis
    where it is at a fixed address."""

    def __init__(self, folder: Path, kind: str = "one", **environment: str) -> None:
        """`environment`: settings of the gateways and workers besides those that they need here."""
        folder.mkdir(parents=True, exist_ok=True)
        self.kind, self._folder = kind.removesuffix(WAITING), folder
        self._more = environment
        self.waiting = kind.endswith(WAITING)
        self.assets = SmallDisk(folder / "assets", 1024)
        self.redis_disk = SmallDisk(folder / "redis", 1024)
        self.servers: ReplicaPair | Cluster | None = None
        self.clock = folder / "clock"
        self.clock.write_text("+0\n")
        self.broker = ToldPart("broker", "tests.chaos.broker", folder / "log")
        self.proxy = ToldPart("proxy", "tests.chaos.proxy", folder / "log")
        self.redis = self._redis_parts()
        self.ports = {f"gateway{number}": free_port() for number in range(GATEWAYS)}
        self.workers = [f"worker{number}" for number in range(WORKERS)]
        self.links = {name: free_port() for name in (*self.ports, *self._redis_links())}
        """Port by link: `gateway0` is the clients' way to a gateway, `worker0-redis` a worker's to Redis."""
        self.parts: dict[str, Part] = {}

    @property
    def urls(self) -> list[str]:
        """Where clients find the gateways."""
        return [f"http://127.0.0.1:{self.links[name]}/v1" for name in self.ports]

    def _redis_parts(self) -> list[RedisPart]:
        where = self.redis_disk.folder
        match self.kind:
            case "one":
                return [RedisPart("redis", RedisServer(valkey_binary(), where), self._false_clock())]
            case "sentinel":
                pair = SentinelPair(where, replicas=2 if self.waiting else 1)
                self.servers, servers = pair, [*pair.servers, *pair.sentinels]
            case "cluster":
                self.servers = Cluster(where)
                servers = self.servers.servers
            case _:
                self.servers = ReplicaPair(where)
                servers = self.servers.servers
        return [RedisPart(f"redis{number}", server) for number, server in enumerate(servers)]

    def _redis_links(self) -> list[str]:
        if self.kind in {"sentinel", "cluster"}:
            return []
        return [*(f"{name}-redis" for name in (*self.ports, *self.workers)), "replication"]

    def primary(self) -> RedisPart:
        """The server that takes writes now."""
        match self.servers:
            case None:
                return self.redis[0]
            case Cluster():
                server = self.servers.owner()
            case SentinelPair():
                port = self.servers.named()
                server = next(s for s in self.servers.servers if s.port == port)
            case _:
                server = self.servers.primary
        return next(part for part in self.redis if part.server is server)

    def start(self) -> None:
        """Start everything and wait until it serves."""
        if self.servers:
            self.servers.start()
        else:
            self.redis[0].start()
        for part in self.redis:
            part.process = part.server.process
        self.broker.start()
        self.broker.tell("topic", TOPIC)
        self.proxy.start()
        for name, port in self.links.items():
            self.proxy.tell("open", name, port, self.ports.get(name) or self.primary().server.port)
        for name in (*self.ports, *self.workers):
            module = name.rstrip("0123456789")
            self.parts[name] = ServicePart(name, module, self._environment(name), self._folder / "log")
            self.parts[name].start()
        self.wait_ready()

    def _environment(self, name: str) -> dict[str, str]:
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "BACKEND_PORT": str(self.ports.get(name, 0)),
            "RTEMBED_HOST": "127.0.0.1",
            "ASSET_STORAGE_DIR": str(self.assets.folder / "store"),
            "MODEL_IMPLEMENTATION_PATH": str(NULL_MODEL),
            "MODEL_PATH": "null?video=0.02",
            "RTEMBED_LOG_FORMAT": "json",
            "RTEMBED_RESULT_TTL": "300",
            "KAFKA_ENABLED": "true",
            "KAFKA_TOPIC": TOPIC,
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.tell("servers"),
            **self._more,
        }
        if self.waiting:
            environment["RTEMBED_REDIS_REPLICAS"] = "1"
        if isinstance(self.servers, SentinelPair | Cluster):
            return environment | self.servers.environment
        return environment | {"REDIS_URL": f"redis://127.0.0.1:{self.links[f'{name}-redis']}/0"}

    def wait_ready(self) -> None:
        """Until every gateway is ready and sees all workers."""
        deadline = time.monotonic() + PATIENCE
        while not all(map(self._ready, self.ports.values())):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the service is not ready: {self.logs()[-3000:]}")
            time.sleep(0.05)

    @staticmethod
    def _ready(port: int) -> bool:
        try:
            health = httpx.get(f"http://127.0.0.1:{port}/v1/ready?detailed=true", timeout=2).json()
        except (httpx.TransportError, ValueError):
            return False
        workers = [c for c in health["checks"] if c["component"].startswith("worker ")]
        return bool(health["healthy"]) and sum(c["healthy"] for c in workers) == WORKERS

    def logs(self) -> str:
        """What all processes logged."""
        return (self._folder / "log").read_text(errors="replace")

    def _false_clock(self) -> dict[str, str] | None:
        """The environment in which a server's clock obeys the file `clock`; None without libfaketime."""
        library = false_clock_library()
        if library is None:
            return None
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.clock),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def stop(self) -> None:
        """End everything."""
        running = [
            part for part in (*self.parts.values(), *self.redis, self.broker, self.proxy) if part.process
        ]
        for part in running:
            part.thaw()
        for part in self.parts.values():
            part.terminate()
        for part in self.parts.values():
            part.wait()
        for part in running:
            part.kill()
        self.assets.close()
        self.redis_disk.close()


def false_clock_library() -> Path | None:
    """The library of libfaketime, if the package is installed for this system."""
    try:
        import libfaketime
    except ImportError:
        return None
    folder = Path(libfaketime.__file__).parent / "vendor" / "libfaketime" / "src"
    name = "libfaketime.so.1" if sys.platform == "linux" else "libfaketime.1.dylib"
    return folder / name if (folder / name).exists() else None
