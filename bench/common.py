"""What the benchmark scripts share: errors, flags, tables, medians, and the cost of processes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from statistics import median
from typing import Any

from model.config.argument_parser import ArgumentParser
from model.config.settings import CHECKOUT
from model.errors import LinlyError
from model.translations import verbatim

Figures = Mapping[str, Any]  # what a script measured, as its JSON has it

MISSING = "-"


class BenchError(LinlyError):
    """A measurement that cannot be made as the flags ask for it; its message is plain English."""

    exit_status = 2

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(verbatim(message, remedy))


class PeerError(BenchError):
    """A peer did not start, or a request to it failed."""

    exit_status = 1


class PeerMissingError(PeerError):
    """A peer is not installed; the message says how to install it."""


def log(line: str) -> None:
    """Print a line about the progress to stderr."""
    print(line, file=sys.stderr, flush=True)


def script(main: Callable[[], int]) -> Callable[[], int]:
    """Decorator of a script's `main`: turns errors into one sentence and an exit status."""

    @wraps(main)
    def run() -> int:
        exit_on_sigterm()
        try:
            return main()
        except PeerError as error:
            return _fail(f"The measurement broke off: {error}")
        except LinlyError as error:
            return _fail(str(error), error.exit_status)
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "").strip().splitlines() or [str(error)]
            return _fail(f"The measurement broke off: {lines[-1]}")
        except KeyboardInterrupt:
            return 130  # 128 + SIGINT, as shells report it

    return run


def _fail(message: str, status: int = 1) -> int:
    print(message, file=sys.stderr)
    return status


def exit_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit(143), so that `finally` blocks stop child processes."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(*_: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleanup
    sys.exit(143)  # 128 + SIGTERM


def script_parser(
    name: str, description: str | None, rounds: int | None = None, epilog: str | None = None
) -> ArgumentParser:
    """Parser of `bench/NAME.py` with `--json`, and with `--rounds` if that has a default.

    The description is a docstring, of which the first paragraph is shown.
    """
    about = (description or "").split("\n\n")[0]
    parser = ArgumentParser(
        prog=f"bench/{name}.py", description=about, epilog=epilog, allow_abbrev=False
    )
    if rounds is not None:
        add_number(parser, "rounds", rounds)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def add_number(
    parser: ArgumentParser, name: str, default: int, about: str = "", minimum: int = 1
) -> None:
    """Add the flag `--NAME N`, an integer of at least `minimum`."""
    text = f"{about} (default: {default})" if about else f"default: {default}"
    parser.add_argument(
        f"--{name}", type=partial(at_least, minimum), default=default, metavar="N", help=text
    )


def at_least(minimum: int, text: str) -> int:
    """Parses an integer with a lower bound, as the type of a flag."""
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {minimum}")
    return int(text)


positive = partial(at_least, 1)


def existing_folder(text: str) -> Path:
    """Parses the path of a folder that exists, as the type of a flag."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text).resolve()


def add_names(
    parser: ArgumentParser, name: str, choices: Sequence[str], what: str, also: Sequence[str] = ()
) -> None:
    """Add the flag `--NAME A,B` for names of `choices`, which are the default, or of `also`."""
    parser.add_argument(
        f"--{name}", type=partial(_names, (*choices, *also), what), default=tuple(choices),
        metavar="A,B", help=f"some of {', '.join(choices)} (default: all)",
    )  # fmt: skip


def _names(choices: Sequence[str], what: str, text: str) -> tuple[str, ...]:
    listed = ", ".join(choices)
    names = split_list(text, f"{what} of {listed}")
    for name in names:
        if name not in choices:
            raise argparse.ArgumentTypeError(f"there is no {what} {name!r} (of {listed})")
    return names


def split_list(text: str, what: str) -> tuple[str, ...]:
    """Splits the value of a flag at its commas; repeated words count once."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError(f"name at least one {what}")
    return tuple(dict.fromkeys(words))


def print_figures(figures: Any, as_json: bool, table: Callable[[Any], str]) -> int:
    """Print what was measured as JSON or as `table` formats it; returns the exit status 0."""
    print(json.dumps(figures) if as_json else table(figures))
    return 0


def format_number(value: float | None) -> str:
    """Three significant digits: 123, 12.3, 0.123."""
    if value is None:
        return MISSING
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals}f}"


def format_ratio(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}x"


def format_table(rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """The rows as lines: the first columns hold text, the others figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def seconds_of(job: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def medians(runs: Sequence[Mapping[str, float]], digits: int) -> dict[str, float]:
    """The median of each figure over the runs, rounded."""
    return {key: round(median(run[key] for run in runs), digits) for key in runs[0]}


def command_costs(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure of a command over its runs; of `peak_bytes`, the largest."""
    figures = {key: median(run[key] for run in runs) for key in runs[0]}
    return {**figures, "peak_bytes": max(run["peak_bytes"] for run in runs)}


def machine() -> str:
    """The processor's name, as Linux reports it, and the number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or 'unknown'}, {os.cpu_count()} cores"


def peak_bytes(pid: int) -> int:
    """Peak resident memory of a running process, its mapped files included."""
    return _memory(pid, "VmHWM")


def resident_bytes(pid: int) -> int:
    """Current anonymous memory of a running process; mapped files do not count."""
    return _memory(pid, "RssAnon")


def _memory(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """CPU time that a running process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drop_from_page_cache(paths: Iterable[Path]) -> None:
    """Write files back and drop them from the system's page cache, so the next read is a disk's."""
    for path in paths:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())  # dirty pages cannot be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class CommandResult:
    """A finished command: `peak_bytes` of resident memory, and the lines of its standard output,
    each with the seconds since the start."""

    seconds: float
    peak_bytes: int
    lines: tuple[tuple[float, str], ...]


def run_process(command: Sequence[str]) -> CommandResult:
    """Run a command in the checkout to its end.

    Raises:
        CalledProcessError: its exit status is not 0.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout  # noqa: S101 (both are pipes)
    assert process.stderr  # noqa: S101
    with process.stdout as out, process.stderr as errors:
        lines = tuple((time.perf_counter() - began, line) for line in out)
        error_text = errors.read()  # short enough for the pipe: a sentence, or some progress
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=error_text)
    return CommandResult(time.perf_counter() - began, usage.ru_maxrss * 1024, lines)
