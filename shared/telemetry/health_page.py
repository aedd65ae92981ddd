"""Metrics and health of one worker or indexer, on its own port."""

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog
from prometheus_client import CollectorRegistry, generate_latest

log = structlog.get_logger(__name__)


class HealthPage:
    """Answers /metrics, /live and /ready on a port of this process, from its own threads.

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
