"""The manifests of Kubernetes as kubectl renders them."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
KUBECTL = Path(sys.executable).with_name("kubectl")


@functools.cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    """The resources of an overlay."""
    command = [str(KUBECTL), "kustomize", str(DEPLOY / "k8s" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [document for document in documents if document["kind"] == kind]
