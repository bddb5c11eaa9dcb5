"""How many cores this process may use, with the limits that containers set."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP2 = Path("/sys/fs/cgroup/cpu.max")  # "max 100000" or "150000 100000": quota, period in µs
CGROUP1 = Path("/sys/fs/cgroup/cpu")


def available_cores() -> int:
    """The cores of this process's affinity, or fewer where a cgroup's quota is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, quota_cores(CGROUP2, CGROUP1)))


def quota_cores(version2: Path, version1: Path) -> int:
    """Whole cores that the cgroup's quota allows; a very large number where there is none."""
    try:
        if version2.is_file():
            quota, period = version2.read_text().split()
        else:
            quota = (version1 / "cpu.cfs_quota_us").read_text()
            period = (version1 / "cpu.cfs_period_us").read_text()
        share = float(quota) / float(period)
    except (OSError, ValueError):  # "max" is no number, and means no limit
        return 1 << 16
    return math.ceil(share) if share > 0 else 1 << 16
