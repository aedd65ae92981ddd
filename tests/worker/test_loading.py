import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from shared.errors import ModelError
from shared.settings import Settings, load
from worker import loading
from worker.backend import BUNDLED_IMPLEMENTATION
from worker.loading import cores, decode_slots
from worker.models.directory import ModelDirectory

ROOT = Path(__file__).parents[2]
NULL_MODEL = ROOT / "tests" / "models" / "null"


def nothing(step: str, done: int, total: int) -> None:
    """Progress that nobody hears."""


def settings(**environment: object) -> Settings:
    return load({name: str(value) for name, value in environment.items()})


def test_a_python_model_says_what_it_is() -> None:
    loaded = loading.load(
        settings(MODEL_IMPLEMENTATION_PATH=NULL_MODEL, MODEL_PATH="null", VLM_BATCH_SIZE=3), nothing
    )
    assert (loaded.info.id, loaded.backend, loaded.batch_size) == ("null", "python", 3)
    assert (loaded.model.id, loaded.model.owned_by, loaded.model.dimension) == ("null", "tests", 768)
    assert loaded.model.supports_text
    assert loaded.model.frames == 8
    assert loaded.engine.embed_text(["a"]).shape == (1, 768)
    loaded.engine.close()


def test_a_model_directory_runs_on_the_cpu(demo_model: ModelDirectory) -> None:
    loaded = loading.load(settings(MODEL_PATH=demo_model.path, RTEMBED_ENGINE_THREADS=1), nothing)
    assert (loaded.backend, loaded.batch_size, loaded.info) == ("cpu", 2, demo_model.info)
    assert loaded.model.created > 1_700_000_000
    (vector,) = loaded.engine.embed_text(["a cat"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    loaded.engine.close()


def test_the_implementation_that_rt_embed_bundles_is_built_in(
    demo_model: ModelDirectory, tmp_path: Path
) -> None:
    bundled = tmp_path / "models" / "custom" / "samples" / BUNDLED_IMPLEMENTATION
    loaded = loading.load(
        settings(MODEL_IMPLEMENTATION_PATH=bundled, MODEL_PATH=demo_model.path, RTEMBED_ENGINE_THREADS=1),
        nothing,
    )
    assert (loaded.backend, loaded.info.id) == ("cpu", demo_model.info.id)
    loaded.engine.close()


def test_a_folder_of_that_name_that_exists_is_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / BUNDLED_IMPLEMENTATION
    own.mkdir()
    (own / "inference.py").write_text((NULL_MODEL / "inference.py").read_text())
    loaded = loading.load(settings(MODEL_IMPLEMENTATION_PATH=own, MODEL_PATH="mine"), nothing)
    assert (loaded.backend, loaded.info.id) == ("python", "mine")
    loaded.engine.close()


def test_the_repository_script_runs_before_the_model_is_made(tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(f"import sys; open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv[1:]))")
    own = tmp_path / "own"
    own.mkdir()
    null = (NULL_MODEL / "inference.py").read_text()
    (own / "inference.py").write_text(f"open({str(tmp_path / 'seen')!r}).close()\n{null}")
    loaded = loading.load(
        settings(
            MODEL_IMPLEMENTATION_PATH=own,
            MODEL_PATH="mine",
            MODEL_REPOSITORY_SCRIPT_PATH=script,
            VLM_BATCH_SIZE=5,
        ),
        nothing,
    )
    loaded.engine.close()
    seen = (tmp_path / "seen").read_text()
    assert seen == "--model_path mine --triton_repo_path /tmp/triton_model_repo --max_batch_size 5"


def test_the_warm_up_can_be_left_out(tmp_path: Path) -> None:
    null = (NULL_MODEL / "inference.py").read_text()
    (tmp_path / "inference.py").write_text(
        f"{null}\nModel.warmup = lambda self: open({str(tmp_path / 'warm')!r}, 'w').close()\n"
    )
    own = {"MODEL_IMPLEMENTATION_PATH": tmp_path, "MODEL_PATH": "mine"}
    loading.load(settings(**own, SKIP_PIPELINE_WARMUP="yes"), nothing).engine.close()
    assert not (tmp_path / "warm").exists()
    loading.load(settings(**own), nothing).engine.close()
    assert (tmp_path / "warm").exists()


@pytest.mark.parametrize("variable", ["MODEL_IMPLEMENTATION_PATH", "MODEL_PATH"])
def test_a_folder_that_is_not_there_is_named(variable: str, tmp_path: Path) -> None:
    missing = tmp_path / "nothing-here"
    with pytest.raises(ModelError, match="nothing-here"):
        loading.load(settings(**{variable: missing}, NGC_MODEL_CACHE=tmp_path / "cache"), nothing)


def test_a_worker_that_cannot_load_its_model_says_so_and_ends_with_status_4(
    redis_url: str, tmp_path: Path
) -> None:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "REDIS_URL": redis_url,
        "RTEMBED_LOG_FORMAT": "json",
        "MODEL_IMPLEMENTATION_PATH": str(tmp_path / "nothing-here"), "RTEMBED_METRICS_PORT": "off",
        "ENABLE_REDIS_ERROR_MESSAGES": "true",
    }  # fmt: skip
    with Redis.from_url(redis_url) as redis, redis.pubsub() as operators:
        operators.subscribe("mdx-embed-errors")
        done = subprocess.run(
            [sys.executable, "-m", "worker"], cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        operators.get_message(timeout=5)
        told = json.loads(operators.get_message(timeout=5)["data"])
    assert told["type"] == "critical"
    assert told["event"].startswith("Failed to initialize Inference pipeline: ")
    assert done.returncode == 4, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    (last,) = [line for line in lines if line["level"] == "critical"]
    assert last["event"] == "worker cannot start"
    assert "nothing-here" in last["error"]
    assert "Traceback" not in done.stderr


def test_decoders_and_threads_follow_the_cores() -> None:
    assert cores() == len(os.sched_getaffinity(0))
    assert decode_slots(settings()) == cores()
    assert decode_slots(settings(RTEMBED_DECODE_SLOTS=7)) == 7
