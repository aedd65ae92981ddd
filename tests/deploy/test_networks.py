"""Which addresses pods may call, worked out from the network policies as Kubernetes does."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from tests.deploy.manifests import of_kind, rendered

GATEWAY, WORKER, INDEXER, VALKEY = (
    "rt-embed-gateway",
    "rt-embed-worker",
    "rt-embed-indexer",
    "rt-embed-valkey",
)


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector fits: empty ones fit all."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    return all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))


def goes_to(peers: list[dict[str, Any]] | None, address: str) -> bool:
    """Whether an outside address is among the peers of a rule. Pods and namespaces are no addresses."""
    if peers is None:
        return True
    for block in (peer["ipBlock"] for peer in peers if "ipBlock" in peer):
        inside = [
            network for network in block.get("except", []) if ip_address(address) in ip_network(network)
        ]
        if ip_address(address) in ip_network(block["cidr"]) and not inside:
            return True
    return False


def has_port(ports: list[dict[str, Any]] | None, port: int) -> bool:
    return ports is None or any(p["port"] <= port <= p.get("endPort", p["port"]) for p in ports)


def may_call(app: str, address: str, port: int, overlay: str = "cpu") -> bool:
    """Whether pods of an application may open a connection to an address outside the cluster."""
    policies = [
        policy["spec"]
        for policy in of_kind(rendered(overlay), "NetworkPolicy")
        if selects(policy["spec"]["podSelector"], {"app": app}) and "Egress" in policy["spec"]["policyTypes"]
    ]
    assert policies, "without a policy everything may be called"
    rules = [rule for policy in policies for rule in policy.get("egress", [])]
    return any(goes_to(rule.get("to"), address) and has_port(rule.get("ports"), port) for rule in rules)


@pytest.mark.parametrize("app", [GATEWAY, WORKER])
def test_the_internet_is_open_for_the_web_only(app: str) -> None:
    assert may_call(app, "93.184.216.34", 443)
    assert may_call(app, "2606:2800:220:1::1", 443)
    assert not may_call(app, "93.184.216.34", 25)


@pytest.mark.parametrize(
    "address",
    [
        "10.96.0.1",
        "192.168.1.10",
        "172.20.0.5",
        "169.254.169.254",
        "100.100.100.200",
        "127.0.0.1",
        "fd00::1",
        "fe80::1",
    ],
)
@pytest.mark.parametrize("app", [GATEWAY, WORKER, INDEXER, VALKEY])
def test_private_networks_and_metadata_services_are_closed(app: str, address: str) -> None:
    for port in (80, 443, 6443, 10250):
        assert not may_call(app, address, port, "search")


def test_only_workers_reach_cameras() -> None:
    assert may_call(WORKER, "192.168.1.64", 554)
    assert not may_call(GATEWAY, "192.168.1.64", 554)
    assert not may_call(WORKER, "169.254.169.254", 554)


def test_the_database_is_reached_by_those_who_use_it() -> None:
    assert [
        app for app in (GATEWAY, WORKER, INDEXER, VALKEY) if may_call(app, "10.1.2.3", 5432, "search")
    ] == [
        GATEWAY,
        INDEXER,
    ]
    assert not may_call(GATEWAY, "10.1.2.3", 5432)


def test_redis_calls_nobody() -> None:
    assert not any(
        may_call(VALKEY, address, port) for address in ("8.8.8.8", "10.0.0.1") for port in (53, 443)
    )
