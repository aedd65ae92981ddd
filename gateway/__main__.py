"""`python -m gateway`: one gateway process."""

import sys

import uvicorn

from gateway.app import create_app
from shared import settings
from shared.errors import SettingsError
from shared.lifecycle.guard import hide
from shared.telemetry import export, logs


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for a bad setting."""
    hide()
    try:
        configuration = settings.load()
    except SettingsError as error:
        print(f"rt-embed gateway: {error}", file=sys.stderr)
        return 2
    logs.configure(configuration, process="gateway")
    uvicorn.run(
        create_app(configuration, export.configure(configuration)),
        host=configuration.host,
        port=configuration.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=int(configuration.shutdown_timeout),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
