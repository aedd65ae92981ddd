"""Deployment files against their own tools and schemas, and against the settings and keys of the code."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from shared import keys
from shared.settings import Settings, load
from tests.deploy.manifests import DEPLOY, of_kind, rendered

BIN = Path(sys.executable).parent
MODEL = "cosmos-embed1-448p"
"""The id of the model that MODEL_PATH names by default."""
OVERLAYS = ["base", "cpu", "gpu", "keda", "s3", "search"]
COMPOSE = ["compose.yaml", "compose.gpu.yaml"]
VARIABLES = {field.metadata["variable"] for field in dataclasses.fields(Settings)}
OF_OTHERS = {"OTEL_RESOURCE_ATTRIBUTES", "GRAFANA_PASSWORD"}
"""What the SDK of OpenTelemetry reads; what our services must not get."""


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_fits_its_schema(overlay: str) -> None:
    documents = rendered(overlay)
    assert {d["kind"] for d in documents} >= {
        "Deployment", "StatefulSet", "Service", "ConfigMap", "HorizontalPodAutoscaler", "PodDisruptionBudget",
        "NetworkPolicy", "PersistentVolumeClaim",
    }  # fmt: skip
    for document in documents:
        validate(json.dumps(document))


@functools.cache
def validate(document: str) -> None:
    """Compare a resource with its schema: most are the same in all overlays."""
    # Hundreds of classes, which take seconds: not for every process that collects tests.
    from cloudcoil.models.keda.v1alpha1 import ScaledObject
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor

    resource = json.loads(document)
    if resource["kind"] == "ScaledObject":
        ScaledObject.model_validate(resource)
    elif resource["kind"] == "PodMonitor":
        PodMonitor.model_validate(resource)
    elif resource["kind"] != "ExternalSecret":  # whose schema no package has
        kubernetes_validate.validate(resource, "1.37", strict=True)


@pytest.mark.parametrize("path", sorted((DEPLOY / "k8s" / "examples").iterdir()), ids=lambda path: path.name)
def test_examples_fit_their_schemas_and_name_what_there_is(path: Path) -> None:
    pods = {
        d["spec"]["template"]["metadata"]["labels"]["app"] for d in of_kind(rendered("search"), "Deployment")
    }
    for document in yaml.safe_load_all(path.read_text()):
        validate(json.dumps(document))
        spec = document["spec"]
        if document["kind"] == "Ingress":
            (rule,) = spec["rules"]
            (service,) = (
                d for d in of_kind(rendered("base"), "Service") if d["metadata"]["name"] == "rt-embed"
            )
            backend = rule["http"]["paths"][0]["backend"]["service"]
            assert backend["name"] == service["metadata"]["name"]
            assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}
            assert rule["host"] in spec["tls"][0]["hosts"]
        elif document["kind"] == "PodMonitor":
            assert spec["selector"]["matchLabels"]["app"] in pods
            assert spec["podMetricsEndpoints"][0]["path"] == "/v1/metrics"
        elif document["kind"] == "NetworkPolicy":
            assert set(spec["podSelector"]["matchExpressions"][0]["values"]) == pods


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_are_restricted_and_bounded(overlay: str) -> None:
    documents = rendered(overlay)
    for workload in of_kind(documents, "Deployment") + of_kind(documents, "StatefulSet"):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        if "valkey" not in workload["metadata"]["name"]:
            assert pod["securityContext"]["runAsUser"] == 1001
            assert pod["terminationGracePeriodSeconds"] > 35
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context["allowPrivilegeEscalation"]
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert ":" in container["image"] or overlay == "base", container["image"]
        for container in pod["containers"]:
            assert container.keys() >= {"livenessProbe", "readinessProbe"}


def test_gateways_are_probed_where_they_answer() -> None:
    gateway = next(
        d for d in of_kind(rendered("cpu"), "Deployment") if d["metadata"]["name"] == "rt-embed-gateway"
    )
    container = gateway["spec"]["template"]["spec"]["containers"][0]
    paths = [container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "liveness", "readiness")]
    assert paths == ["/v1/startup", "/v1/live", "/v1/ready"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_of_the_cluster_exist(overlay: str) -> None:
    (settings,) = of_kind(rendered(overlay), "ConfigMap")
    assert settings["data"].keys() <= VARIABLES


def test_keda_scales_on_the_lanes_that_there_are() -> None:
    documents = rendered("keda")
    (scaled,) = of_kind(documents, "ScaledObject")
    triggers = [trigger["metadata"] for trigger in scaled["spec"]["triggers"]]
    assert {t["stream"] for t in triggers} == {keys.jobs("video", MODEL), keys.jobs("text", MODEL)}
    assert {t["consumerGroup"] for t in triggers} == {keys.GROUP}
    (worker,) = (d for d in of_kind(documents, "Deployment") if d["metadata"]["name"] == "rt-embed-worker")
    assert "replicas" not in worker["spec"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]


def test_the_dockerfile_passes_hadolint() -> None:
    done = subprocess.run(
        [str(BIN / "hadolint"), str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_images_hold_what_they_must_and_no_more() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for source in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for name in source.split()[:-1]:
            assert (DEPLOY.parent / name).exists(), name
    assert re.search(r"^ARG GATEWAY_EXTRAS=$", text, re.MULTILINE), "the gateway needs no extra"
    assert text.count("USER 1001:1001") == 1
    assert "latest" not in text


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return loaded


@pytest.mark.parametrize("name", COMPOSE)
def test_the_compose_files_fit_the_specification(name: str) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    command = [*check, str(DEPLOY / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["rtvi-server", "worker", "model-prepare", "indexer"])
def test_our_services_are_restricted_and_know_only_settings_that_exist(name: str) -> None:
    service = compose()["services"][name]
    assert (service["user"], service["read_only"], service["cap_drop"]) == ("1001:1001", True, ["ALL"])
    assert service["environment"].keys() <= VARIABLES | OF_OTHERS
    assert not re.search(r"latest|:$", service["image"])
    assert service["build"]["target"] in (DEPLOY / "Dockerfile").read_text()


def test_the_demonstration_model_runs_with_one_variable() -> None:
    for name in ("worker", "model-prepare"):
        service = compose()["services"][name]
        assert service["environment"]["MODEL_PATH"].startswith("${MODEL_PATH:-git:")
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    stage = dockerfile.partition("AS worker-cpu-packages\n")[2].partition("\nFROM ")[0]
    assert "/requirements/worker-cpu.txt" in stage
    assert "FROM worker-cpu-packages AS model-prepare-packages" in dockerfile


def test_the_gpu_file_changes_what_there_is() -> None:
    services, changed = compose()["services"], compose("compose.gpu.yaml")["services"]
    assert changed.keys() - {"dcgm-exporter"} <= services.keys()
    assert changed["dcgm-exporter"]["profiles"] == ["with-monitoring"]
    worker = changed["worker"]
    assert worker["environment"].keys() <= VARIABLES
    assert f"AS {worker['build']['target']}\n" in (DEPLOY / "Dockerfile").read_text()
    (devices,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert "video" in devices["capabilities"], "NVDEC's library"
    assert "precision" in " ".join(changed["model-prepare"]["command"])


def test_gpu_workers_have_a_gpu_and_the_precision_that_was_prepared() -> None:
    (worker,) = (
        d for d in of_kind(rendered("gpu"), "Deployment") if d["metadata"]["name"] == "rt-embed-worker"
    )
    pod = worker["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["containers"][0]["image"].startswith("rt-embed-worker-gpu:")
    assert pod["initContainers"][0]["command"][-1] == Settings.precision


def test_with_a_bucket_nobody_shares_a_volume_of_assets() -> None:
    documents = rendered("s3")
    assert [d["metadata"]["name"] for d in of_kind(documents, "PersistentVolumeClaim")] == ["rt-embed-models"]
    (settings,) = of_kind(documents, "ConfigMap")
    load(settings["data"])
    assert settings["data"]["RTEMBED_ASSET_STORE"].startswith("s3://")
    for workload in of_kind(documents, "Deployment"):
        (assets,) = (v for v in workload["spec"]["template"]["spec"]["volumes"] if v["name"] == "assets")
        assert assets.keys() == {"name", "emptyDir"}


@pytest.mark.parametrize("name", COMPOSE)
def test_files_that_the_compose_files_mount_are_there(name: str) -> None:
    for service in compose(name)["services"].values():
        assert ":latest" not in service.get("image", "")
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file(), source


def test_the_tools_are_those_of_the_environment() -> None:
    """Not whatever a machine has on its path."""
    assert all(shutil.which(tool, path=str(BIN)) for tool in ("kubectl", "hadolint"))
