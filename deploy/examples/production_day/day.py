"""A first day in production, in about ten minutes, with one failure of each kind.

    python deploy/examples/production_day/day.py FOLDER > transcript.md

starts the site of `processes.py` in FOLDER, which must be new, lets clients work all day, breaks one part
after the other, and writes what an operator sees: answers to clients, health, log lines, alerts, and what
commands show. Names of scenes (`broker_stops`) after FOLDER choose some of them.
"""

import asyncio
import json
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from processes import HERE, PROMETHEUS, PROXY, REDIS, SENTINELS, Site, lines, wait
from redis import Redis

from rt_embed.cli.demo import make_film

URL = f"http://127.0.0.1:{PROXY}"
ASK = f"http://127.0.0.1:{PROMETHEUS}/api/v1"
DASHBOARD = HERE.parents[1] / "monitoring" / "dashboard.json"
NOT_HERE = ("rtembed_gpu_", "DCGM_", "node_")
"""How metrics begin that need a GPU or another exporter."""
SETTLE = 8.0
"""Seconds of quiet after each failure, in which figures come in."""
UNHEARD = ("InitProducerId", "kafka without idempotence")
"""What only this small broker causes: it has no idempotent producers."""
SHOWN = (
    "component",
    "lane",
    "worker",
    "state",
    "taken_from",
    "chunks",
    "failed",
    "code",
    "reason",
    "error",
    "skipped",
)


class Clients:
    """Clients that send a text twice a second, search, and embed a film every few seconds, all day long."""

    def __init__(self, film: str, model: str) -> None:
        self.answers: Counter[str] = Counter()
        self.slowest = 0.0
        self.accepted: list[str] = []
        self._film, self._model = film, model
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._texts, self._films)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _texts(self) -> None:
        with httpx.Client(base_url=f"{URL}/v1", timeout=30) as client:
            while not self._over.wait(0.5):
                body = {"text_input": "a cat", "model": self._model}
                self._send(client, "text", "/generate_text_embeddings", body)
                self._send(client, "search", "/search", {"text": "a cat", "top_k": 3})

    def _films(self) -> None:
        with httpx.Client(base_url=f"{URL}/v1", timeout=30) as client:
            while not self._over.wait(6):
                body = {"id": self._film, "model": self._model, "chunk_duration": 5}
                answer = self._send(
                    client, "film", "/generate_video_embeddings", body, Prefer="respond-async"
                )
                if answer is not None and answer.status_code == 202:
                    self.accepted.append(answer.json()["id"])

    def _send(
        self, client: httpx.Client, what: str, path: str, body: object, **headers: str
    ) -> httpx.Response | None:
        began = time.monotonic()
        try:
            answer = client.post(path, json=body, headers=headers)
        except httpx.HTTPError as error:
            self.answers[f"{what} {type(error).__name__}"] += 1
            return None
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.answers[f"{what} {answer.status_code}"] += 1
        return answer


class AlertLog:
    """Asks for health and alerts twice a second, and notes what changes."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.began = time.monotonic()
        self._health, self._alerts = "", dict[str, str]()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        """Forget what was seen, and count seconds from now."""
        self.seen, self.began = [], time.monotonic()

    def _watch(self) -> None:
        with httpx.Client(timeout=3) as client:
            while True:
                self._look(client)
                time.sleep(0.5)

    def _look(self, client: httpx.Client) -> None:
        try:
            answer = client.get(f"{URL}/v1/ready?detailed=true")
            wrong = [c["message"] for c in answer.json().get("checks", []) if not c["healthy"]]
            health = f"{answer.status_code} {'; '.join(sorted(set(wrong)))}".strip()
        except (httpx.HTTPError, ValueError) as error:
            health = f"no answer: {type(error).__name__}"
        if re.sub(r"\d+", "", health) != re.sub(r"\d+", "", self._health):
            self._note(f"ready: {health}")
        self._health = health
        try:
            alerts = client.get(f"{ASK}/alerts").json()["data"]["alerts"]
        except (httpx.HTTPError, ValueError):
            return
        now = {alert["labels"]["alertname"]: alert["state"] for alert in alerts}
        for name in sorted(now.keys() | self._alerts.keys()):
            if now.get(name) != self._alerts.get(name):
                self._note(f"alert {name}: {now.get(name, 'over')}")
        self._alerts = now

    def _note(self, what: str) -> None:
        self.seen.append(f"{time.monotonic() - self.began:5.1f} s  {what}")


class Day:
    """The scenes of the day."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.watch = AlertLog()
        self.client = httpx.Client(base_url=f"{URL}/v1", timeout=60)
        self.film, self.model = "", ""
        self.clients: Clients

    def morning(self) -> None:
        """Wait for the service, upload the first film, and let clients begin."""
        seconds = wait(lambda: self.client.get("/ready").status_code == 200, "the service")
        print(f"Everything was started at once; `/v1/ready` said 200 after {seconds:.0f} s.\n")
        told("gateway-1's start, in its log; the others say the same of themselves")
        block(
            _compact(line)
            for line in lines(self.site.parts["gateway-1"].log, 0)
            if line["event"] == "starting"
        )
        self.show("doctor")
        path, _ = asyncio.run(make_film(self.site.folder))
        with path.open("rb") as file:
            form = {"purpose": "vision", "media_type": "video"}
            self.film = self.client.post("/files", data=form, files={"file": file}).json()["id"]
        self.model = self.client.get("/models").json()["data"][0]["id"]
        body = {"id": self.film, "model": self.model, "chunk_duration": 1}
        answer = self.client.post("/generate_video_embeddings", json=body).json()
        print(f"The first film became {len(answer['chunk_responses'])} vectors. Its line in the log:\n")
        wait(lambda: list(self._done(answer["id"])), "the line of the first request")
        block(self._done(answer["id"]))
        self.clients = Clients(self.film, self.model)
        self.clients.start()

    def _done(self, request: str) -> list[str]:
        return [
            f"{name}: {_compact(line)}"
            for name, part in self.site.parts.items()
            for line in (lines(part.log, 0) if part.log.exists() else ())
            if line.get("event") == "request done" and line.get("request_id") == request
        ]

    @contextmanager
    def scene(self, title: str, *commands: str) -> Iterator[None]:
        """Show what is seen from the failure, within, until it is over; `commands` are typed meanwhile."""
        print(f"\n### {title}\n")
        sizes = {name: part.log.stat().st_size for name, part in self.site.parts.items() if part.log.exists()}
        before = self.clients.answers.copy()
        self.clients.slowest = 0.0
        self.watch.begin()
        yield
        time.sleep(SETTLE)
        told("Clients")
        block([", ".join(f"{n}: {c}" for n, c in sorted((self.clients.answers - before).items())),
               f"slowest answer {self.clients.slowest:.1f} s"])  # fmt: skip
        told("Health and alerts")
        block(self.watch.seen or ["nothing changed"])
        told("Log lines at WARNING and above, and who took over")
        block(list(self._said(sizes)) or ["none"])

    def _said(self, sizes: dict[str, int]) -> Iterator[str]:
        for name, part in self.site.parts.items():
            seen: Counter[str] = Counter()
            for line in lines(part.log, sizes.get(name, 0)) if part.log.exists() else ():
                loud = line.get("level") in {"warning", "error", "critical"} or "taken over" in str(
                    line["event"]
                )
                if (
                    loud
                    and not seen[str(line["event"])]
                    and not any(u in str(line["event"]) for u in UNHEARD)
                ):
                    yield f"{name}: {_compact(line)}"
                seen[str(line["event"])] += 1

    def show(self, *command: str) -> None:
        """Print what `rt-embed` says."""
        print(f"    $ rt-embed {' '.join(command)}")
        block(self.site.command(*command).splitlines()[:24])

    def screenshot(self, name: str, page: str) -> None:
        """Keep a picture of the console, if a browser is here."""
        from playwright.sync_api import Error, sync_playwright  # noqa: PLC0415 - only for this

        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path="/usr/bin/chromium", args=["--no-sandbox"]
                )
                shown = browser.new_page(viewport={"width": 1100, "height": 700})
                shown.goto(f"{URL}/{page}")
                shown.wait_for_timeout(6000)
                shown.screenshot(path=self.site.folder / name, type="jpeg", quality=75)
        except Error as error:
            print(f"no {name}: {str(error).splitlines()[0]}", file=sys.stderr)

    def dashboard(self) -> None:
        """Ask Prometheus what the dashboard asks."""
        print("\n### What the dashboard shows at the end of the day\n")
        print("| panel | query | answer |\n| --- | --- | --- |")
        for panel in _panels(json.loads(DASHBOARD.read_text())["panels"]):
            for target in panel.get("targets", []):
                if any(other in target["expr"] for other in NOT_HERE):
                    continue
                answer = httpx.get(f"{ASK}/query", params={"query": target["expr"]}).json()
                query = target["expr"].replace("|", "\\|")
                print(f"| {panel['title']} | `{query}` | {_answer(answer)} |")

    def evening(self) -> None:
        """Count what became of every request."""
        self.clients.stop()
        states: Counter[str] = Counter()

        def ended() -> bool:
            states.clear()
            states.update(self.client.get(f"/requests/{i}").json()["status"] for i in self.clients.accepted)
            return not states["running"]

        wait(ended, "the last requests")
        print("\n### The evening\n")
        print(f"{len(self.clients.accepted)} film requests were accepted: {dict(states)}.")
        print(f"All answers of the day: {dict(sorted(self.clients.answers.items()))}.")


def _panels(panels: list[Any]) -> Iterator[Any]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", []))


def _answer(answer: Any) -> str:
    if answer["status"] != "success":
        return f"**{answer['error']}**"
    found = []
    for series in answer["data"]["result"][:3]:
        labels = ", ".join(v for k, v in series["metric"].items() if k != "__name__")
        found.append(
            f"{labels}: {float(series['value'][1]):.3g}" if labels else f"{float(series['value'][1]):.3g}"
        )
    return "; ".join(found) or "no data"


def _compact(line: dict[str, object]) -> str:
    hidden = {"event", "level", "logger", "timestamp", "process", "x_request_id", "job", "worker"}
    level = str(line.get("level", "")).upper()
    more = " ".join(f"{k}={str(v)[:160]}" for k, v in line.items() if k not in hidden and v not in ("", None))
    return f"{level} {line['event']} {more}".strip()


def told(what: str) -> None:
    """Print a heading of a block."""
    print(f"{what}:\n")


def block(shown: Any) -> None:
    """Print lines as they are."""
    print("\n".join(f"    {' '.join(str(line)[:230].split(chr(10)))}".rstrip() for line in shown), end="\n\n")


def worker_dies(day: Day) -> None:
    """A worker is killed while it embeds; another takes its jobs over."""
    with day.scene("A worker is killed (kill -9)"):
        body = {"id": day.film, "model": day.model, "chunk_duration": 1}
        day.client.post("/generate_video_embeddings", json=body, headers={"Prefer": "respond-async"})
        time.sleep(1)
        day.site.parts["worker-1"].stop(signal.SIGKILL)
        time.sleep(3)
        day.screenshot("fleet.jpg", "#/fleet")
        day.show("inspect", "workers")
        time.sleep(6)
        day.site.parts["worker-1"].start()
        time.sleep(10)


def gateway_dies(day: Day) -> None:
    """A gateway is killed; nginx asks the other one."""
    with day.scene("A gateway is killed (kill -9)"):
        day.site.parts["gateway-1"].stop(signal.SIGKILL)
        time.sleep(8)
        day.site.parts["gateway-1"].start()
        time.sleep(6)


def named_primary() -> int:
    """Return the port of the Redis that is the primary, as a Sentinel says."""
    with Redis(port=SENTINELS["sentinel-1"], socket_timeout=5) as sentinel:
        answer: Any = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "rtembed")
    return int(answer[1])


def redis_dies(day: Day) -> None:
    """The primary is killed; Sentinel promotes the replica."""
    with day.scene("The Redis primary is killed (kill -9)"):
        primary = named_primary()
        name = next(name for name, port in REDIS.items() if port == primary)
        day.site.parts[name].stop(signal.SIGKILL)
        wait(lambda: named_primary() != primary, "a new primary")
        seconds = time.monotonic() - day.watch.began
        print(f"Sentinel named the other one {seconds:.1f} s after {name} was killed.\n")
        time.sleep(5)
        day.site.parts[name].start()
        time.sleep(8)


def all_redis_away(day: Day) -> None:
    """Both are frozen: nobody can do anything, and everybody says so."""
    with day.scene("Both Redis servers stand still (SIGSTOP)"):
        for name in REDIS:
            day.site.parts[name].send(signal.SIGSTOP)
        time.sleep(20)
        for name in REDIS:
            day.site.parts[name].send(signal.SIGCONT)
        time.sleep(12)


def broker_stops(day: Day) -> None:
    """The broker stands still: messages wait in the outbox."""
    with day.scene("The Kafka broker stands still (SIGSTOP)"):
        day.site.parts["broker"].send(signal.SIGSTOP)
        time.sleep(55)
        day.show("inspect", "outbox")
        day.site.parts["broker"].send(signal.SIGCONT)
        time.sleep(25)


def database_stops(day: Day) -> None:
    """PostgreSQL is stopped: searches fail, the rest goes on, and the indexer catches up."""
    with day.scene("PostgreSQL is stopped"):
        day.site.parts["postgres"].stop(signal.SIGINT)
        time.sleep(80)
        answer = day.client.post("/search", json={"text": "a cat"})
        print(f"A search meanwhile: {answer.status_code} `{answer.text[:300]}`\n")
        day.site.parts["postgres"].start()
        time.sleep(20)


def bad_film(day: Day) -> None:
    """A client uploads what is no film, and one that ends in the middle."""
    with day.scene("Bad films"):
        film = (day.site.folder / "demo.mp4").read_bytes()
        broken = film[: len(film) // 4] + bytes(len(film) // 2) + film[-len(film) // 4 :]
        films = {"notes.mp4": b"no film", "cut.mp4": film[: len(film) // 2], "damaged.mp4": broken}
        for name, body in films.items():
            form = {"purpose": "vision", "media_type": "video"}
            answer = day.client.post("/files", data=form, files={"file": (name, body)})
            print(f"* upload of {name}: {answer.status_code} `{answer.text[:120]}`")
            if answer.status_code == 200:
                ask = {"id": answer.json()["id"], "model": day.model, "chunk_duration": 1}
                answer = day.client.post("/generate_video_embeddings", json=ask)
                print(f"  and its embedding: {answer.status_code} `{answer.text[:200]}`")
        print()


def bad_camera(day: Day) -> None:
    """A camera is added that nobody answers at."""
    with day.scene("A camera that does not answer"):
        stream = {"liveStreamUrl": "rtsp://127.0.0.1:1/gate", "description": "gate"}
        answer = day.client.post("/streams/add", json={"streams": [stream]})
        print(f"Adding it: {answer.status_code} `{answer.text[:400]}`\n")


SCENES: tuple[Callable[[Day], None], ...] = (
    worker_dies, gateway_dies, redis_dies, broker_stops, database_stops, all_redis_away, bad_film, bad_camera,
)  # fmt: skip


def main() -> None:
    """Live the day."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    site = Site(folder)
    began = time.monotonic()
    try:
        site.start()
        day = Day(site)
        print("### The morning\n")
        day.morning()
        time.sleep(20)
        day.screenshot("search.jpg", "#/search?q=a+cat")
        for scene in SCENES:
            if scene.__name__ in sys.argv[2:] or not sys.argv[2:]:
                scene(day)
        day.dashboard()
        day.evening()
        print(f"\nThe day took {(time.monotonic() - began) / 60:.0f} minutes.")
    finally:
        site.stop()


if __name__ == "__main__":
    main()
