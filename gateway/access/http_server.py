"""How the application is served: uvicorn on uvloop, with bounded connections."""

from typing import Any

import uvicorn

from gateway.access.http_protocol import bounded
from shared.settings import Settings


def server_config(app: Any, settings: Settings) -> uvicorn.Config:
    """Return uvicorn's configuration for `app`."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=bounded(settings),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `gateway.access.client_address` decides which header to trust
        server_header=False,
        timeout_graceful_shutdown=int(settings.shutdown_timeout),
    )
