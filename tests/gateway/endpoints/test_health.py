import pytest

from gateway.endpoints.health import running_on
from shared.fleet import Worker


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "running"),  # a worker of an older version
        (
            {"backend": "cuda", "gpu": "NVIDIA L40S", "driver": "580.65", "engine": "v.engine, t.engine"},
            "running on NVIDIA L40S, driver 580.65, engine v.engine, t.engine",
        ),
        (
            {"backend": "python", "gpu": "NVIDIA L40S", "driver": "580.65"},
            "running on NVIDIA L40S, driver 580.65",
        ),
        (
            {"backend": "cpu", "backend_wanted": "auto", "backend_reason": "the NVIDIA driver shows no GPU"},
            "running on the CPU: RTEMBED_BACKEND=auto, but the NVIDIA driver shows no GPU",
        ),
        (
            {"backend": "cpu", "backend_wanted": "cpu", "backend_reason": "RTEMBED_BACKEND=cpu"},
            "running on the CPU: RTEMBED_BACKEND=cpu",
        ),
    ],
)
def test_what_a_worker_runs_on_is_said(told: dict[str, str], said: str) -> None:
    assert running_on(Worker(name="w", state="ready", **told)) == said  # type: ignore[arg-type] # texts
