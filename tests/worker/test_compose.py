import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from redis import Redis

from shared import keys
from shared.errors import ModelError
from shared.lifecycle.cores import cores
from shared.settings import Settings, load
from worker import compose
from worker.compose import decode_slots
from worker.engine.backend import BUNDLED_IMPLEMENTATION, Backend
from worker.engine.gpus import Gpu
from worker.media.decoder_pool import DecoderPool
from worker.media.gpu.clip_slots import Slots
from worker.media.gpu.gpu_media import Device, GpuMedia
from worker.media.gpu.nvdec_sessions import Sessions
from worker.models.directory import ModelDirectory

ROOT = Path(__file__).parents[2]
NULL_MODEL = ROOT / "tests" / "models" / "null"


def nothing(step: str, done: int, total: int) -> None:
    """Progress that nobody hears."""


def settings(**environment: object) -> Settings:
    return load({name: str(value) for name, value in environment.items()})


def test_a_python_model_says_what_it_is() -> None:
    loaded = compose.load(
        settings(MODEL_IMPLEMENTATION_PATH=NULL_MODEL, MODEL_PATH="null", VLM_BATCH_SIZE=3), nothing
    )
    assert (loaded.info.id, loaded.backend, loaded.batch_size) == ("null", "python", 3)
    assert (loaded.model.id, loaded.model.owned_by, loaded.model.dimension) == ("null", "tests", 768)
    assert loaded.model.supports_text
    assert loaded.model.frames == 8
    assert loaded.engine.embed_text(["a"]).shape == (1, 768)
    loaded.engine.close()


def test_a_model_directory_runs_on_the_cpu(demo_model: ModelDirectory) -> None:
    loaded = compose.load(settings(MODEL_PATH=demo_model.path, RTEMBED_ENGINE_THREADS=1), nothing)
    assert (loaded.backend, loaded.batch_size, loaded.info) == ("cpu", 2, demo_model.info)
    assert loaded.model.created > 1_700_000_000
    (vector,) = loaded.engine.embed_text(["a cat"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    loaded.engine.close()


def test_the_implementation_that_rt_embed_bundles_is_built_in(
    demo_model: ModelDirectory, tmp_path: Path
) -> None:
    bundled = tmp_path / "models" / "custom" / "samples" / BUNDLED_IMPLEMENTATION
    loaded = compose.load(
        settings(MODEL_IMPLEMENTATION_PATH=bundled, MODEL_PATH=demo_model.path, RTEMBED_ENGINE_THREADS=1),
        nothing,
    )
    assert (loaded.backend, loaded.info.id) == ("cpu", demo_model.info.id)
    loaded.engine.close()


def test_a_folder_of_that_name_that_exists_is_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / BUNDLED_IMPLEMENTATION
    own.mkdir()
    (own / "inference.py").write_text((NULL_MODEL / "inference.py").read_text())
    loaded = compose.load(settings(MODEL_IMPLEMENTATION_PATH=own, MODEL_PATH="mine"), nothing)
    assert (loaded.backend, loaded.info.id) == ("python", "mine")
    loaded.engine.close()


def test_the_repository_script_runs_before_the_model_is_made(tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(f"import sys; open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv[1:]))")
    own = tmp_path / "own"
    own.mkdir()
    null = (NULL_MODEL / "inference.py").read_text()
    (own / "inference.py").write_text(f"open({str(tmp_path / 'seen')!r}).close()\n{null}")
    loaded = compose.load(
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
    compose.load(settings(**own, SKIP_PIPELINE_WARMUP="yes"), nothing).engine.close()
    assert not (tmp_path / "warm").exists()
    compose.load(settings(**own), nothing).engine.close()
    assert (tmp_path / "warm").exists()


@pytest.mark.parametrize("variable", ["MODEL_IMPLEMENTATION_PATH", "MODEL_PATH"])
def test_a_folder_that_is_not_there_is_named(variable: str, tmp_path: Path) -> None:
    missing = tmp_path / "nothing-here"
    with pytest.raises(ModelError, match="nothing-here"):
        compose.load(settings(**{variable: missing}, NGC_MODEL_CACHE=tmp_path / "cache"), nothing)


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
        (name,) = redis.zrange(keys.WORKERS, 0, -1)
        left = redis.hget(keys.worker(name.decode()), "detail")
    assert b"nothing-here" in left, "nothing tells others why no worker is ready"
    assert left.startswith(b"unable to start: ")
    assert told["type"] == "critical"
    assert told["event"].startswith("Failed to initialize Inference pipeline: ")
    assert done.returncode == 4, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    *_, last = [line for line in lines if line["level"] == "critical"]
    assert last["event"] == "worker cannot start"
    assert "nothing-here" in last["error"]
    assert "Traceback" not in done.stderr


def test_a_worker_with_the_packages_for_gpus_alone_says_what_a_cpu_would_need(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import worker.worker_process\n"
        "from shared.errors import ModelError; from shared.settings import load; from worker import compose\n"
        "try: compose.load(load(), lambda *_: None)\n"
        "except ModelError as error: print(error.message)"
    )
    environment = {"RTEMBED_BACKEND": "cpu", "MODEL_PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no GPU is used, and the extra [worker] is not installed" in done.stdout, done.stderr


def test_decoders_and_threads_follow_the_cores() -> None:
    assert cores() == len(os.sched_getaffinity(0))
    assert decode_slots(settings()) == cores()
    assert decode_slots(settings(RTEMBED_DECODE_SLOTS=7)) == 7


# Where media are decoded ----------------------------------------------------------------------------------


def loaded_with(backend: str, batch_size: int, model: ModelDirectory) -> compose.Loaded:
    """As after `load`, with an engine that is never asked."""
    gpu = Gpu(0, "GPU-1", "NVIDIA L40S", 46068 << 20, (8, 9), "580.65")
    loaded = compose.load(settings(MODEL_PATH=model.path, RTEMBED_ENGINE_THREADS=1), nothing)
    loaded.engine.close()
    runs_on = Backend("auto", "cuda", gpus=(gpu,)) if backend == "cuda" else Backend("cpu", "cpu")
    return msgspec.structs.replace(loaded, backend=backend, batch_size=batch_size, runs_on=runs_on)


@pytest.mark.parametrize("backend", ["cpu", "python"])
async def test_without_a_gpu_processes_decode(backend: str, demo_model: ModelDirectory) -> None:
    """So they do for a model in Python, which need not understand what lies on a GPU."""
    loaded = loaded_with(backend, 2, demo_model)
    chosen = settings(RTEMBED_DECODE_SLOTS=1)
    assert type(compose.live_decoders(chosen, loaded)) is DecoderPool
    async with compose.open_media(chosen, loaded) as media:
        assert type(media) is DecoderPool


async def test_with_a_gpu_it_decodes(demo_model: ModelDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def no_gpu(slots: int, frames: int, size: int, **options: bool) -> Device:
        asked.append((slots, frames, size, options))
        return Device(
            Sessions(lambda _: pytest.fail("nothing is decoded"), 3), _NoSlots(slots), lambda *_: {}
        )

    monkeypatch.setattr(compose, "open_device", no_gpu)
    loaded = loaded_with("cuda", 16, demo_model)
    info = demo_model.info
    chosen = settings(RTEMBED_DECODE_SLOTS=3, RTEMBED_LIVE_SLOTS=100, FORCE_SW_AV1_DECODER="yes")
    live = compose.live_decoders(chosen, loaded)
    assert isinstance(live, GpuMedia)
    await live.close()
    async with compose.open_media(chosen, loaded) as media:
        assert isinstance(media, GpuMedia)
        assert media.slots == 3
    assert asked == [
        (64, info.frames, info.resolution, {"low_latency": True, "reuse": True, "software_av1": True}),
        (3 * 16 + 2 * 16, info.frames, info.resolution, {"reuse": True, "software_av1": True}),
    ]


class _NoSlots(Slots[int]):
    """Slots without memory."""

    def __init__(self, count: int) -> None:
        super().__init__(np.empty((count, 0), np.uint8))

    def _draw(self, *_: object) -> None: ...
    def _record(self) -> int:
        return 0

    def _wait(self, event: int) -> None: ...
    def _empty(self, shape: tuple[int, ...]) -> None: ...
    def _copy(self, target: object, frames: object) -> None: ...
    def _upload(self, target: object, frames: object) -> None: ...

    def _download(self, frames: object) -> NDArray[np.uint8]:
        return np.empty(0, np.uint8)


@pytest.mark.parametrize(
    ("gib", "batch_size", "files", "expected"),
    [(80, 64, 32, 32), (80, 64, 200, 61), (45, 16, 200, 37), (16, 4, 64, 26), (2, 64, 64, 1)],
)
def test_clips_take_a_bounded_part_of_a_gpu(
    gib: int, batch_size: int, files: int, expected: int, demo_model: ModelDirectory
) -> None:
    info = msgspec.structs.replace(demo_model.info, frames=8, resolution=448)
    ahead = min(compose.clips_ahead(batch_size), compose.MOST_CLIPS_AHEAD)
    decoded = compose.files_on_gpu(info, gib << 30, files, ahead, batch_size)
    assert decoded == expected
    taken = (decoded * ahead + 2 * batch_size) * 8 * 3 * 448**2
    assert decoded == 1 or taken <= (gib << 30) / 16
