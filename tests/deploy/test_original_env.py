"""RT-Embed's documented `.env` in deploy/: our images run, and their processes accept what reaches them."""

import re
from typing import Any

import pytest
import yaml

from shared.settings import load
from tests.deploy.manifests import DEPLOY

ORIGINAL = {
    "BACKEND_PORT": "8017",
    "RTVI_IMAGE": "nvcr.io/nvidia/vss-core/vss-rt-embed:3.2.0",
    "RTVI_EMBED_IMAGE": "nvcr.io/nvidia/vss-core/vss-rt-embed",
    "RTVI_EMBED_TAG": "3.2.0-sbsa",
    "ASSET_STORAGE_DIR": "/srv/assets",
    "EXAMPLE_STREAMS_DIR": "/srv/films",
    "NVIDIA_VISIBLE_DEVICES": "0",
    "LOG_LEVEL": "INFO",
    "KAFKA_ENABLED": "true",
    "KAFKA_BOOTSTRAP_SERVERS": "10.1.1.1:9092",
    "KAFKA_TOPIC": "mdx-embed",
    "ERROR_MESSAGE_TOPIC": "mdx-embed-errors",
    "NUM_VLM_PROCS": "",
    "VLM_BATCH_SIZE": "8",
    "NGC_API_KEY": "nvapi-x",
}
VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-+])((?:[^${}]|\$\{[^}]*\})*))?\}")


def filled(text: str, given: dict[str, str]) -> str:
    """Text as Compose interpolates it: ${NAME}, ${NAME:-default}, ${NAME-default}, ${NAME:+instead}."""

    def value(found: re.Match[str]) -> str:
        name, operator, other = found.groups()
        present = bool(given.get(name)) if (operator or "").startswith(":") else name in given
        if (operator or "").endswith("+"):
            return other if present else ""
        return given[name] if present else other or ""

    return VARIABLE.sub(value, text).replace("$$", "$")


def service(name: str, given: dict[str, str]) -> dict[str, Any]:
    """A service as Compose runs it."""
    described = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"][name]
    described["environment"] = {key: filled(value, given) for key, value in described["environment"].items()}
    for listed in ("ports", "volumes"):
        described[listed] = [filled(text, given) for text in described.get(listed, [])]
    return {**described, "image": filled(described["image"], given)}


def test_interpolation_is_that_of_compose() -> None:
    text = "${A} ${A:-x} ${B:-x} ${C-x} ${C:-x} ${A:+y} ${B:+y} $$d"
    assert filled(text, {"A": "a", "C": ""}) == "a a x  x y  $d"


@pytest.mark.parametrize("given", [{}, ORIGINAL], ids=["nothing", "original"])
@pytest.mark.parametrize("name", ["rtvi-server", "worker", "model-prepare", "indexer"])
def test_our_services_start_with_it(name: str, given: dict[str, str]) -> None:
    running = service(name, given)
    assert running["image"].startswith("rt-embed-")
    settings = load({**given, **running["environment"]})
    assert settings.port == 8000, "within the container"
    assert str(settings.asset_dir) == "/tmp/assets"
    assert (settings.kafka_enabled, settings.batch_size) == ((True, 8) if given else (False, None))


def test_the_service_is_where_it_was() -> None:
    server = service("rtvi-server", ORIGINAL)
    assert server["ports"] == ["8017:8000"]
    assert "/srv/assets:/tmp/assets" in server["volumes"]
    assert "/srv/films:/opt/nvidia/rtvi/streams:ro" in server["volumes"]
