"""What a measurement tells about the machine, and asks it about a process."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """The processor as Linux calls it, and the number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'unknown'}, {os.cpu_count()} cores"


def peak_bytes(pid: int) -> int:
    """The most memory that a running process has had at a time, what it maps of files included."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def resident_bytes(pid: int) -> int:
    """The memory of a running process that is its own now; what it maps of files is not counted."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """What a running process has used of the cores so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
