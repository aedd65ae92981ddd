"""Passwords and keys reach the services that use them, and nobody else."""

import dataclasses
import re
import subprocess
from typing import Any

import pytest
import yaml

from shared.settings import Settings, load
from tests.deploy.manifests import DEPLOY, of_kind, rendered

SECRETS = {f.metadata["variable"] for f in dataclasses.fields(Settings) if f.metadata["secret"]}
BUS = {"REDIS_URL", "REDIS_PASSWORD", "REDIS_SENTINEL_PASSWORD", "KAFKA_SASL_PASSWORD", "KAFKA_SSL_PASSWORD"}
MEDIA = {"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RTEMBED_SECRET_KEY"}
CLIENTS = {"RTEMBED_API_KEYS", "RTEMBED_ADMIN_KEYS", "ASSET_DOWNLOAD_AUTH_TOKENS"}
MODELS = {"NGC_API_KEY", "HF_TOKEN"}
REMOTE = {"REMOTE_EMBED_ENDPOINT_API_KEY"}
SEARCH = {"RTEMBED_SEARCH_URL"}
USES = {
    "rtvi-server": BUS | MEDIA | CLIENTS | SEARCH,
    "worker": BUS | MEDIA | MODELS | REMOTE,
    "model-prepare": MODELS,
    "indexer": BUS | SEARCH,
}
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_every_secret_has_its_place() -> None:
    assert BUS | MEDIA | CLIENTS | MODELS | REMOTE | SEARCH == SECRETS


@pytest.mark.parametrize("name", USES)
def test_compose_gives_a_service_what_it_uses(name: str) -> None:
    """What deploy/.env has reaches all of ours unless the service's environment says otherwise."""
    environment = COMPOSE["services"][name]["environment"]
    for variable in SECRETS | {"GRAFANA_PASSWORD"}:
        wanted = f"${{{variable}:-}}" if variable in USES[name] else ""
        assert environment[variable] == wanted, variable


def test_empty_secrets_count_as_unset() -> None:
    assert load(dict.fromkeys(SECRETS, "")) == load({})


def documented() -> dict[str, set[str]]:
    """The variables of each Secret of Kubernetes, from the table for operators."""
    table = (DEPLOY / "kubernetes.md").read_text()
    rows = re.findall(r"^\| `(rt-embed-[a-z-]*secrets)` \| (.+?) \|", table, re.MULTILINE)
    return {name: set(re.findall(r"`([A-Z][A-Z0-9_]+)`", variables)) for name, variables in rows}


def test_kubernetes_gives_a_pod_what_it_uses() -> None:
    secrets = documented()
    assert set().union(*secrets.values()) >= SECRETS
    given: dict[str, set[str]] = {}
    for workload in of_kind(rendered("search"), "Deployment"):
        pod = workload["spec"]["template"]["spec"]
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            names = [s["secretRef"]["name"] for s in container["envFrom"] if "secretRef" in s]
            given[container["name"]] = set().union(*(secrets[name] for name in names)) & SECRETS
    assert given == {
        "gateway": USES["rtvi-server"],
        "worker": USES["worker"],
        "model-prepare": USES["model-prepare"] | REMOTE,
        "indexer": USES["indexer"],
    }


def test_the_example_of_a_secret_store_fills_secrets_that_there_are() -> None:
    text = (DEPLOY / "k8s" / "examples" / "external-secrets.yaml").read_text()
    for document in yaml.safe_load_all(text):
        spec = document["spec"]
        assert {entry["secretKey"] for entry in spec["data"]} <= documented()[spec["target"]["name"]]


@pytest.mark.parametrize("file", ["compose.yaml", "compose.gpu.yaml"])
def test_only_the_gateway_is_published_beyond_this_machine(file: str) -> None:
    for name, service in yaml.safe_load((DEPLOY / file).read_text())["services"].items():
        for port in service.get("ports", []):
            assert name == "rtvi-server" or port.startswith(
                ("127.0.0.1:", "${MONITORING_ADDRESS:-127.0.0.1}:")
            )


@pytest.mark.parametrize(("password", "wanted"), [("", "true"), ("secret", "")])
def test_grafana_has_no_administrator_without_a_password(password: str, wanted: str) -> None:
    grafana = COMPOSE["services"]["grafana"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_PASSWORD:-}"
    shell, option, script = grafana["entrypoint"]
    told = script.replace("$$", "$").replace(
        "exec /run.sh", 'echo "$GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"'
    )
    done = subprocess.run(
        [shell, option, told],
        env={"GF_SECURITY_ADMIN_PASSWORD": password},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{wanted}\n"
