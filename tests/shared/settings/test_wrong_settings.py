"""Settings that are wrong: what the operator reads, before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.settings import load
from shared.settings.names import without_effect

ROOT = Path(__file__).parents[3]
WRONG = [
    ("BACKEND_PORT", "http", "BACKEND_PORT='http': must be a whole number from 0 to 65535"),
    ("BACKEND_PORT", "70000", "BACKEND_PORT='70000': must be a whole number from 0 to 65535"),
    ("LOG_LEVEL", "loud", "LOG_LEVEL='loud': must be one of debug, perf"),
    ("RTEMBED_LOG_FORMAT", "xml", "RTEMBED_LOG_FORMAT='xml': must be one of auto, json, console"),
    ("RTEMBED_METRICS_PORT", "on", "RTEMBED_METRICS_PORT='on': must be a port, 0 or off"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "must be an http or https URL"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector", "must be an http or https URL"),
    ("OTEL_METRICS_EXPORTER", "statsd", "must be one of otlp, console, none"),
    ("REDIS_URL", "localhost:6379", "REDIS_URL=(hidden): must be"),
    ("REDIS_PORT", "0", "REDIS_PORT='0': must be a whole number from 1 to 65535"),
    ("REDIS_DB", "-1", "REDIS_DB='-1': must be a whole number"),
    ("RTEMBED_ASSET_STORE", "ftp://place", "RTEMBED_ASSET_STORE='ftp://place': must be"),
    ("FILE_URL_ALLOWED_DIRS", "relative/path", "must be absolute paths separated by ','"),
    ("FILE_URL_ALLOWED_DIRS", "/media,more", "must be absolute paths separated by ','"),
    ("S3_ENDPOINT_URL", "minio:9000", "S3_ENDPOINT_URL='minio:9000': must be an http or https URL"),
    ("S3_ENDPOINT_URL", "http://minio:port", "must be an http or https URL"),
    ("RTEMBED_API_KEYS", " , ", "RTEMBED_API_KEYS=(hidden): must be"),
    ("RTEMBED_BLOCK_PRIVATE_NETWORKS", "maybe", "must be true or false"),
    ("RTEMBED_RTSP_ALLOWED_NETWORKS", "10.0.0.0/33", "RTEMBED_RTSP_ALLOWED_NETWORKS='10.0.0.0/33': must be"),
    ("RTEMBED_MAX_BODY_BYTES", "1 MB", "RTEMBED_MAX_BODY_BYTES='1 MB': must be a whole number"),
    ("RTEMBED_RESULT_TTL", "0", "RTEMBED_RESULT_TTL='0': must be"),
    ("RTEMBED_CLAIM_TIMEOUT", "soon", "RTEMBED_CLAIM_TIMEOUT='soon': must be"),
    ("RTEMBED_WORKER_NAME", "two words", "must be 1 to 128 letters, digits, dots, hyphens, underscores"),
    ("RTEMBED_LIVE_OVERLOAD", "ignore", "RTEMBED_LIVE_OVERLOAD='ignore': must be one of"),
    ("RTEMBED_RTSP_TRANSPORT", "quic", "RTEMBED_RTSP_TRANSPORT='quic': must be one of"),
    (
        "KAFKA_SSL_CAFILE",
        "/no/ca.pem",
        "KAFKA_SSL_CAFILE='/no/ca.pem': must be the path of a file that exists",
    ),
    ("KAFKA_SECURITY_PROTOCOL", "TLS", "KAFKA_SECURITY_PROTOCOL='TLS': must be one of"),
    ("MESSAGE_BUS_TOPIC", "{rtembed}:outbox", "any text that does not begin with {rtembed}:"),
    ("RTEMBED_BACKEND", "tpu", "RTEMBED_BACKEND='tpu': must be one of auto, cpu, cuda"),
    ("RTEMBED_TENSORRT", "8", "RTEMBED_TENSORRT='8': must be one of"),
    ("RTEMBED_REDIS_TIMOUT", "5", "there is no such setting; did you mean RTEMBED_REDIS_TIMEOUT?"),
    ("RTEMBED_WORKERNAME", "w", "there is no such setting; did you mean RTEMBED_WORKER_NAME?"),
    ("RTEMBED_XQZ", "1", "RTEMBED_XQZ: there is no such setting; rt-embed settings --all shows them"),
]


@pytest.mark.parametrize(("variable", "value", "message"), WRONG, ids=[f"{v}={t}" for v, t, _ in WRONG])
def test_a_wrong_setting_is_named_with_what_is_allowed(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({variable: value})
    assert message in caught.value.message
    assert variable in caught.value.message


@pytest.mark.parametrize(
    ("module", "name"), [("gateway", "gateway"), ("worker", "worker"), ("search", "indexer")]
)
def test_a_start_with_wrong_settings_ends_with_status_2_and_names_them_all(
    module: str, name: str, tmp_path: Path
) -> None:
    file = tmp_path / "production.env"
    file.write_text("BACKEND_PORT=x\nRTEMBED_BAKEND=cpu\nKAFKA_SSL_CAFILE=/of/the/file.pem\n")
    done = started(module, "--config", file, KAFKA_SSL_CAFILE="/no/ca.pem")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"rt-embed {name}: RTEMBED_BAKEND: there is no such setting; did you mean RTEMBED_BACKEND?"
    )
    assert "BACKEND_PORT='x'" in line
    assert "KAFKA_SSL_CAFILE='/no/ca.pem'" in line, "the environment wins"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "/no/such.env"], "rt-embed gateway: /no/such.env: cannot be read: No such file"),
        (["--config"], "rt-embed gateway: error: argument --config: expected one argument"),
        (["--port", "80"], "rt-embed gateway: error: unrecognized arguments: --port 80"),
    ],
)
def test_arguments_that_a_process_does_not_take(arguments: list[str], message: str) -> None:
    done = started("gateway", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def started(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return a process of the service that has ended by itself."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_secret_is_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        load({"REDIS_URL": "secret-without-a-scheme"})
    assert "secret-without" not in caught.value.message


def test_variables_of_clients_and_of_compose_files_are_not_ours() -> None:
    load({"RTEMBED_API_KEY": "k", "RTEMBED_GATEWAY_IMAGE": "gateway:1", "RTVI_IMAGE": "nvcr.io/nvidia/x"})


def test_variables_of_rt_embed_without_effect_are_found() -> None:
    given = {"NUM_VLM_PROCS": "10", "RTVI_IPC_SOCKET_DIR": "/run", "VLM_DEFAULT_NUM_FRAMES_PER_CHUNK": "8",
             "RTVI_EXTRA_ARGS": "", "MODEL_PATH": "demo"}  # fmt: skip
    found = without_effect(given)
    assert list(found) == ["NUM_VLM_PROCS", "RTVI_IPC_SOCKET_DIR", "VLM_DEFAULT_NUM_FRAMES_PER_CHUNK"]
    assert "NUM_GPUS" in found["NUM_VLM_PROCS"]
