"""Whether this worker makes progress, judged from a thread of its own, which a stuck event loop cannot stop.

A worker that is stuck says so in its record and its log, stops claiming, and then ends itself: whoever
started it starts it again, and its jobs go to others.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CollectorRegistry, generate_latest

log = structlog.get_logger(__name__)

HUNG = 5
"""Exit status of a worker that ended itself."""
BEAT = 1.0
LOOP_TIMEOUT = 30.0
LAST_WORDS = 5.0
"""Seconds for a stuck worker to tell the fleet, beyond those for its jobs."""


class Watch:
    """Looks after the event loop, and after what `look_after` and `ask` name.

    `problem` says what is stuck; empty while all is well. `stuck` is called in the event loop when there is a
    problem; the process ends `patience` seconds later, at once if it is the loop itself.
    """

    def __init__(
        self, stuck: Callable[[], None], patience: float, loop_timeout: float = LOOP_TIMEOUT
    ) -> None:
        self.problem = ""
        self._stuck = stuck
        self._patience = patience + LAST_WORDS
        self._loop_timeout = loop_timeout
        self._beaten = time.monotonic()
        self._checks: list[Callable[[], str]] = []
        self._over = threading.Event()

    def look_after(self, name: str, since: Callable[[], float | None], limit: float) -> None:
        """What `name` does may take `limit` seconds; `since` says when it began, None while it is idle."""

        def check() -> str:
            began = since()
            late = began is not None and time.monotonic() - began > limit
            return f"{name} works on one batch for more than {limit:g} s" if late else ""

        self.ask(check)

    def ask(self, check: Callable[[], str]) -> None:
        """Have `check` say what is wrong; an empty text if nothing is."""
        self._checks.append(check)

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        self._beaten = time.monotonic()
        thread = threading.Thread(target=self._watch, args=(loop,), name="watch", daemon=True)
        thread.start()
        try:
            while True:
                self._beaten = time.monotonic()
                await asyncio.sleep(BEAT)
        finally:
            self._over.set()
            # At once, unless something is stuck: no thread should meet the interpreter's end.
            thread.join(BEAT)

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._over.wait(BEAT):
            if problem := self._loop_problem():
                self._end(problem)
            elif problem := next(filter(None, (check() for check in self._checks)), ""):
                self.problem = problem
                log.critical("worker is stuck", reason=problem)
                loop.call_soon_threadsafe(self._stuck)
                # Not the event: that is set when the loop ends, which does not free what is stuck.
                time.sleep(self._patience)
                self._end(problem)

    def _loop_problem(self) -> str:
        silence = time.monotonic() - self._beaten
        return f"the event loop stands still for {silence:.0f} s" if silence > self._loop_timeout else ""

    def _end(self, problem: str) -> None:
        self.problem = problem
        log.critical("worker ends itself to be replaced", reason=problem)
        os._exit(HUNG)


class HealthPage:
    """Answers /metrics, /live and /ready on a port of this worker, from threads of its own.

    `live` and `ready` return what is wrong, or an empty text.
    """

    def __init__(
        self, registry: CollectorRegistry | None, live: Callable[[], str], ready: Callable[[], str]
    ) -> None:
        self._registry = registry
        self._questions = {"/live": live, "/ready": ready}

    def serve(self, host: str, port: int) -> tuple[int, Callable[[], None]]:
        """Listen; the port, and what ends it. Raises OSError when the port is taken."""
        server = ThreadingHTTPServer((host, port), self._handler())
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, name="health-page", daemon=True).start()

        def close() -> None:
            server.shutdown()
            server.server_close()

        return server.server_address[1], close

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        if path == "/metrics" and self._registry:
            return 200, generate_latest(self._registry)
        if path in self._questions:
            problem = self._questions[path]()
            return (503, problem.encode()) if problem else (200, b"ok")
        return 404, b"/metrics, /live and /ready are here"

    def _handler(page: "HealthPage") -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = page.answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's
                log.debug("health page", request=format % args)

        return Handler
