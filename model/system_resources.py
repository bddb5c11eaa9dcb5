"""Resources of this process: cores and memory with the limits of containers, open files, and
garbage collection."""

from __future__ import annotations

import gc
import math
import os
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")  # of version 2; version 1 has folders in it
MEMINFO = Path("/proc/meminfo")
NO_LIMIT = 1 << 62


def available_cores(cgroup: Path = CGROUP) -> int:
    """The cores of this process's affinity, or of its cgroup's quota if that is smaller."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(allowed or 1, _quota_cores(cgroup)))


def available_memory(cgroup: Path = CGROUP, meminfo: Path = MEMINFO) -> int:
    """Free memory in bytes, without swap, of the machine or within the cgroup's limit."""
    return max(0, min(_free_memory(meminfo), _cgroup_memory(cgroup)))


def _quota_cores(cgroup: Path) -> int:
    if (cgroup / "cpu.max").is_file():  # "max 100000" or "150000 100000": quota, period in µs
        words = _text(cgroup / "cpu.max").split()
    else:
        words = [_text(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:  # "max", or there are no such files
        return NO_LIMIT
    return math.ceil(quota / period) if quota > 0 < period else NO_LIMIT


def _cgroup_memory(cgroup: Path) -> int:
    files = [
        (cgroup / "memory.max", cgroup / "memory.current"),
        (cgroup / "memory/memory.limit_in_bytes", cgroup / "memory/memory.usage_in_bytes"),
    ]
    for limit, used in files:
        if _text(limit).isdecimal() and _text(used).isdecimal():
            return int(_text(limit)) - int(_text(used))
    return NO_LIMIT


def _free_memory(meminfo: Path) -> int:
    for line in _text(meminfo).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2 if pages else NO_LIMIT


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def allow_many_files() -> None:
    """Raises the soft limit of open files, sockets included, to the hard limit: many systems start
    with 1,024."""
    with suppress(ImportError, OSError, ValueError):  # Windows; macOS, which can have no hard limit
        import resource

        _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))


def freeze_loaded_objects() -> None:
    """Collects garbage now, and excludes all remaining objects from later collections.

    A full collection stops every thread. With torch, numba and Gradio loaded it visited 600,000
    objects that live as long as the program, which took 0.4 s of a core.
    """
    gc.collect()
    gc.freeze()
