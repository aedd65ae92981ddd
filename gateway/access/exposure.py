"""Warnings at the start of a gateway that is open to more than its own machine."""

import structlog

from shared.addresses import is_loopback
from shared.settings import Settings

log = structlog.get_logger(__name__)


def warn_of_exposure(settings: Settings) -> None:
    """Warn about an API that anyone may use, and about a file system that clients may read."""
    if not settings.api_keys and not is_loopback(settings.host):
        log.warning(
            "anyone who reaches this host may use the API: set RTEMBED_API_KEYS, or RTEMBED_HOST=127.0.0.1",
            host=settings.host,
        )
    if settings.any_server_path:
        log.warning("RTEMBED_ANY_SERVER_PATH is on: clients may read every video and image of this machine")
