import time
from pathlib import Path
from threading import Thread

import pytest
from structlog.testing import capture_logs

from shared.errors import ModelError
from tests.worker.engine.custom.conftest import WriteFolder
from worker.engine.custom.load_custom import load_python_model
from worker.engine.custom.model_scripts import install_prerequisites, run_repository_script, run_script


def test_prerequisites_are_installed_first_and_must_succeed(folder: WriteFolder, tmp_path: Path) -> None:
    (tmp_path / "install_prerequisites.sh").write_text("echo 'DIMENSION = 3' > made_by_the_script.py\n")
    source = """
        from made_by_the_script import DIMENSION
        class Model:
            embed_dim, supports_text = DIMENSION, False
            def __init__(self, path, **kwargs): ...
            def generate(self, *arguments): ...
    """
    assert load_python_model(folder(source), "m", 1)[0].dimension == 3
    (tmp_path / "install_prerequisites.sh").write_text("echo no such package >&2; exit 4\n")
    with pytest.raises(ModelError, match=r"(?s)ended with code 4.*no such package"):
        load_python_model(folder(source), "m", 1)


def test_the_repository_script_gets_its_arguments_and_must_succeed(tmp_path: Path) -> None:
    script = tmp_path / "build.py"
    script.write_text(f"import sys; open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv[1:]))")
    run_repository_script(script, "/models/mine", tmp_path / "repository", 16, 60)
    expected = f"--model_path /models/mine --triton_repo_path {tmp_path}/repository --max_batch_size 16"
    assert (tmp_path / "seen").read_text() == expected
    script.write_text("raise SystemExit('no builder')")
    with pytest.raises(ModelError, match=r"(?s)ended with code 1.*no builder"):
        run_repository_script(script, "/models/mine", tmp_path / "repository", 16, 60)


def test_workers_of_a_host_install_one_after_the_other(tmp_path: Path) -> None:
    script = tmp_path / "install_prerequisites.sh"
    script.write_text("echo begin >> order; sleep 0.2; echo end >> order\n")
    threads = [Thread(target=install_prerequisites, args=(tmp_path, 60)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (tmp_path / "order").read_text().split() == ["begin", "end"] * 3


def test_each_line_is_logged_as_it_comes_and_the_last_ones_are_in_the_error(tmp_path: Path) -> None:
    script = tmp_path / "install.sh"
    script.write_text("seq 1 30; echo to the error channel >&2; printf '%03000d' 7; exit 3\n")
    with capture_logs() as logs, pytest.raises(ModelError) as caught:
        run_script(["bash", str(script)], 60)
    lines = [entry["line"] for entry in logs if entry["event"] == "script"]
    assert lines[:3] == ["1", "2", "3"]
    assert "to the error channel" in lines
    assert max(map(len, lines)) == 1000
    assert "ended with code 3" in caught.value.message
    assert "\n  30\n" in caught.value.message
    assert "\n  1\n" not in caught.value.message


def test_a_script_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    script = tmp_path / "install.sh"
    script.write_text("echo waiting; sleep 600 & echo $! > pid; wait\n")
    with pytest.raises(ModelError, match=r"(?s)had not ended after 0.5 s.*waiting"):
        run_script(["bash", str(script)], 0.5, tmp_path)
    started = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    deadline = time.monotonic() + 20
    while started.exists() and started.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)
