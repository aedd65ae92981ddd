"""The files of the production day are valid and fit each other. The day itself is run by hand."""

import importlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared.settings import load
from shared.settings.settings_file import read_settings_file

DAY = Path(__file__).parents[2] / "deploy" / "examples" / "production_day"
LARGEST_PICTURE = 150_000


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DAY))
    return importlib.import_module("processes")


def test_settings_are_those_of_the_site(processes: Any) -> None:
    settings = load(read_settings_file(DAY / "production.env"))
    assert settings.redis_sentinels == tuple(f"127.0.0.1:{port}" for port in processes.SENTINELS.values())
    assert settings.kafka_servers == f"127.0.0.1:{processes.KAFKA}"
    sentinel = (DAY / "sentinel.conf").read_text()
    assert (
        f"sentinel monitor {settings.redis_sentinel_master} 127.0.0.1 {processes.REDIS['redis-1']} 2"
        in sentinel
    )
    for name in ("nginx.conf", "prometheus.yaml"):
        named = set(map(int, re.findall(r"127\.0\.0\.1:(27\d+)", (DAY / name).read_text())))
        assert named - {processes.PROXY} == set(processes.GATEWAYS.values())


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed (Debian: nginx-light)")
def test_nginx_takes_its_file(tmp_path: Path) -> None:
    check("nginx", "-t", "-p", str(tmp_path), "-c", str(DAY / "nginx.conf"))


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_prometheus_takes_its_files(processes: Any, tmp_path: Path) -> None:
    shutil.copy(DAY / "prometheus.yaml", tmp_path)
    faster = processes.faster(processes.RULES.read_text())
    (tmp_path / "rules.yaml").write_text(faster)
    assert "for: 12s" in faster
    assert 'rtembed_lane_oldest_seconds{lane="video"}) > 60\n' in faster
    check("promtool", "check", "config", str(tmp_path / "prometheus.yaml"))


def check(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_recorded_day_has_every_scene_and_its_pictures() -> None:
    program, recorded = (DAY / "day.py").read_text(), (DAY / "README.md").read_text()
    scenes = re.findall(r'day\.scene\("(.+)"\)', program)
    assert len(scenes) == 8
    for scene in scenes:
        assert f"\n### {scene}\n" in recorded
    pictures = re.findall(r"!\[.+?\]\((\w+\.jpg)\)", recorded)
    assert sorted(pictures) == sorted(path.name for path in DAY.glob("*.jpg"))
    assert all((DAY / name).stat().st_size <= LARGEST_PICTURE for name in pictures)
