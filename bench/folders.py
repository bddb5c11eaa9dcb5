"""What converting, checking and merging a large model costs on this machine.

`python bench/folders.py [--layers N] [--rounds N] [--json]` makes a TencentPretrain checkpoint with
random weights of Open-Linly-13B's geometry and a few of its layers, and an adapter for it; then in
turns copies it, converts it, merges the adapter and checks the result. Speeds are told beside that
of copying, memory as the most that a command had at a time. `--help` has the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ending import told
from bench.flags import Parser, positive
from bench.foldering.made import MADE
from bench.geometry import Geometry, add_geometry, geometry_of
from bench.machine import machine
from bench.rounds import Say, to_stderr
from bench.timed import timed

LAYERS = 6
ROUNDS = 3
CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """One command: seconds, the most memory in bytes, and the bytes that it wrote."""

    seconds: float
    peak: int
    written: int


Rounds = Mapping[str, list[Run]]


def main() -> int:
    return told(_figures)


def _figures() -> str:
    given = _parser().given(sys.argv[1:])
    geometry = geometry_of(given, LAYERS)
    with tempfile.TemporaryDirectory(prefix="linly-bench-", dir=given["dir"]) as scratch:
        rounds = measure(geometry, given["rounds"], Path(scratch), to_stderr)
    figures = summary(rounds)
    return json.dumps(figures) if given["json"] else table(figures)


def _parser() -> Parser:
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(prog="bench/folders.py", description=about, allow_abbrev=False)
    add_geometry(parser, LAYERS)
    add = parser.add_argument
    add("--rounds", type=positive, default=ROUNDS, metavar="N", help="default: 3")
    add(
        "--dir", type=Path, metavar="DIR",
        help="a folder on the disk to measure, with room for four times the model",
    )  # fmt: skip
    add("--json", action="store_true", help="print JSON instead of a table")
    return parser


def measure(geometry: Geometry, rounds: int, scratch: Path, say: Say) -> Rounds:
    """Every command in each round, by its name."""
    say(f"writing a checkpoint with {geometry.layers} layers …")
    # In a process of its own: the memory of whoever starts a command counts as the command's.
    sizes = json.dumps(asdict(geometry))
    make = [sys.executable, "-m", "bench.foldering.made", sizes, str(scratch)]
    subprocess.run(make, cwd=CHECKOUT, check=True, capture_output=True, text=True)
    source, tokenizer, adapter = (scratch / name for name in MADE)
    copy, converted, merged = (scratch / name for name in ("copy.bin", "converted", "merged"))
    commands: dict[str, tuple[Path, Sequence[str]]] = {
        "copy": (copy, ["cp", str(source), str(copy)]),
        "convert": (
            converted, _model("convert", str(source), str(converted), "--tokenizer", str(tokenizer))
        ),
        "merge": (
            merged,
            _model("merge", "--base_model", str(converted), "--lora_model", str(adapter),
                   "--output_dir", str(merged)),
        ),
        "check": (merged, _model("check", str(merged))),
    }  # fmt: skip
    found: dict[str, list[Run]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, (made, command) in commands.items():
            run = _timed(command, made, writes=name != "check")
            say(f"round {number + 1}: {name} {run.seconds:.1f} s, {run.peak / 1e9:.2f} GB")
            found[name].append(run)
        for made in (copy, converted, merged):
            _remove(made)
    return found


def _model(*words: str) -> list[str]:
    return [sys.executable, "-m", "model", *words]


def _timed(command: Sequence[str], made: Path, writes: bool) -> Run:
    """Run a command until what it wrote is on the disk; its input comes from the disk, too.

    Raises:
        CalledProcessError: it failed.
    """
    for path in made.parent.rglob("*"):
        _forget(path)
    began = time.perf_counter()
    done = timed(command)
    files = [path for path in (made, *made.rglob("*")) if path.is_file()] if writes else []
    for file in files:
        _to_disk(file)
    seconds = time.perf_counter() - began
    return Run(seconds, done.peak, sum(file.stat().st_size for file in files))


def _to_disk(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def _forget(path: Path) -> None:
    """Have the system drop what it keeps of a file in memory."""
    if path.is_file():
        _to_disk(path)
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink()


def summary(rounds: Rounds) -> dict[str, object]:
    """Medians by command: seconds, bytes a second, the most memory, and the speed over copying."""
    speeds = {
        name: median(run.written / run.seconds for run in runs) for name, runs in rounds.items()
    }
    figures: dict[str, object] = {"machine": machine()}
    for name, runs in rounds.items():
        figures[name] = {
            "seconds": median(run.seconds for run in runs),
            "bytes_per_second": speeds[name],
            "peak_bytes": max(run.peak for run in runs),
            "over_copy": speeds[name] / speeds["copy"],
        }
    return figures


def table(figures: Mapping[str, object]) -> str:
    lines = [str(figures["machine"]), "", "| | s | MB/s | over copying | most memory, GB |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, values in figures.items():
        if isinstance(values, dict):
            speed = f"{values['bytes_per_second'] / 1e6:.0f}" if values["over_copy"] else ""
            over = f"{values['over_copy']:.2f}" if values["over_copy"] else ""
            lines.append(
                f"| {name} | {values['seconds']:.1f} | {speed} | {over} | "
                f"{values['peak_bytes'] / 1e9:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
