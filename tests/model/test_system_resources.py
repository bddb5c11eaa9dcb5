"""Limits of the machine and of containers, from the kernel's files."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

import pytest

from model.system_resources import (
    NO_LIMIT,
    allow_many_files,
    available_cores,
    available_memory,
    freeze_loaded_objects,
)

CORES = len(os.sched_getaffinity(0))


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", CORES), ("50000 100000", 1), ("100000 100000", 1), ("", CORES),
     ("nonsense", CORES), ("9999999999 100000", CORES), ("1000 0", CORES)],
)  # fmt: skip
def test_cores_in_a_container(tmp_path: Path, quota: str, cores: int) -> None:
    assert available_cores(write(tmp_path, cpu_dot_max=quota + "\n")) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", CORES), ("90000", 1)])
def test_cores_in_a_container_of_cgroup_version_1(tmp_path: Path, quota: str, cores: int) -> None:
    files = {"cpu__cpu_dot_cfs_quota_us": quota, "cpu__cpu_dot_cfs_period_us": "100000"}
    assert available_cores(write(tmp_path, **files)) == cores


def test_cores_without_a_container_are_those_of_the_affinity(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == CORES


MEMINFO = "MemTotal: 1000 kB\nMemFree: 5 kB\nMemAvailable:     400 kB\n"


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "100", 400 * 1024), ("300000", "100000", 200000), ("100", "300", 0)],
)
def test_memory_is_the_smaller_of_free_memory_and_limit(
    tmp_path: Path, limit: str, used: str, expected: int
) -> None:
    meminfo = write(tmp_path, meminfo=MEMINFO) / "meminfo"
    cgroup = write(tmp_path / "v2", memory_dot_max=limit, memory_dot_current=used)
    assert available_memory(cgroup, meminfo) == expected
    version_1 = {
        "memory__memory_dot_limit_in_bytes": limit,
        "memory__memory_dot_usage_in_bytes": used,
    }
    assert available_memory(write(tmp_path / "v1", **version_1), meminfo) == expected


def test_memory_without_the_kernels_files_is_an_estimate(tmp_path: Path) -> None:
    assert 0 < available_memory(tmp_path, tmp_path / "none") <= NO_LIMIT
    assert available_memory() > 1 << 20


def test_limit_of_open_files_is_raised() -> None:
    """Many systems start with 1,024 files, and each open tab needs one."""
    before, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1, hard_limit))
        allow_many_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard_limit, hard_limit)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard_limit))


def test_loaded_objects_are_excluded_from_collections() -> None:
    """A full collection of them stopped the page's event loop for 0.4 s."""
    loaded = [[number] for number in range(100)]
    try:
        freeze_loaded_objects()
        assert gc.get_freeze_count() > len(loaded)
        assert not any(tracked is loaded for tracked in gc.get_objects())
    finally:
        gc.unfreeze()
