"""A gateway process from its settings to its exit status."""

import sys

import uvicorn

from gateway.access.http_server import server_config
from gateway.app import create_app
from shared import settings
from shared.errors import SettingsError
from shared.telemetry import export, logs


def main() -> int:
    """Exit status: 0 after a clean stop, 2 for a bad setting."""
    try:
        configuration = settings.load()
    except SettingsError as error:
        print(f"rt-embed gateway: {error}", file=sys.stderr)
        return 2
    logs.configure(configuration, process="gateway")
    app = create_app(configuration, export.configure(configuration))
    server = uvicorn.Server(server_config(app, configuration))
    server.run()
    return 0 if server.started else 3
