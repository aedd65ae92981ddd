"""What a start says about who can reach the service."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from gateway.access.exposure import warn_of_exposure
from shared.addresses import is_loopback
from shared.settings import Settings
from shared.settings.setting_types import NamedKey


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("gateway", False),
    ],
)
def test_which_addresses_are_of_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host", "keys", "anywhere", "warnings"),
    [
        ("127.0.0.1", (), False, []),
        ("0.0.0.0", (NamedKey("", "k"),), False, []),
        ("0.0.0.0", (), False, ["anyone"]),
        ("127.0.0.1", (), True, ["RTEMBED_ANY_SERVER_PATH"]),
        ("::", (), True, ["anyone", "RTEMBED_ANY_SERVER_PATH"]),
    ],
)
def test_one_warning_for_each_open_door(
    settings: Settings, host: str, keys: tuple[NamedKey, ...], anywhere: bool, warnings: list[str]
) -> None:
    with capture_logs() as lines:
        warn_of_exposure(replace(settings, host=host, api_keys=keys, any_server_path=anywhere))
    assert [line["event"].split()[0] for line in lines] == warnings
    assert {line["log_level"] for line in lines} <= {"warning"}
