"""How many cores this process may use."""

import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def cores(cgroups: Path = CGROUPS) -> int:
    """Return the number of cores, at least 1: those that the scheduler allows, or fewer if a container's
    quota of processor time (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us`) is worth less."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(cgroups)
    return allowed if quota is None else max(1, min(allowed, round(quota)))


def _quota(cgroups: Path) -> float | None:
    """Cores' worth of processor time, None without a limit."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroups / name).read_text() for name in names).split()
        except (OSError, ValueError):
            continue
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            return int(quota) / int(period)
    return None
