"""The figures of `bench/scale.py`, with the names that its JSON has, and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.common import align_columns, format_number, format_ratio

Row = dict[str, float]
Cells = Sequence[Sequence[str]]


@dataclass(frozen=True)
class LoadCost:
    """One loading in a process of its own: seconds, and peak memory in bytes.

    `in_bounds`: it needed no more than `Loading.bound_bytes`.
    """

    seconds: float
    peak_bytes: int
    in_bounds: bool


@dataclass(frozen=True)
class Loading:
    """From the model's files, and from the cache of quantised weights, if there was room for one.

    The bound is the sum of the int8 weights, of the largest tensor in the files, and of the
    program.
    """

    int8_bytes: int
    largest_bytes: int
    bound_bytes: int
    source: LoadCost
    cache: LoadCost | None


@dataclass(frozen=True)
class SingleUser:
    """One user. A token reads `bytes_a_token` of weights and scales, `reads` bytes a second.

    `machine_reads` is the memory bandwidth: the best of several attempts between the turns, with
    as many threads; `share` is the part of it that decoding uses. `llama_cpp_ms` is None if
    llama.cpp was not measured; `llama_cpp` describes it, or says why not. `times_as_fast` compares
    this program with it.
    """

    ms: float
    bytes_a_token: int
    reads: float
    machine_reads: float
    share: float
    llama_cpp: str
    llama_cpp_ms: float | None = None
    times_as_fast: float | None = None


@dataclass(frozen=True)
class ScaleFigures:
    """Everything, with the conditions. Times are medians.

    `contexts` are about one user after `context` tokens: milliseconds of a token, and tokens a
    second of the prefill that follows. `users` and `adapters` are about a step in which each user
    gets a token after `behind` others; 0 adapters is the base alone.
    """

    machine: str
    model: str
    threads: int
    steps: int
    behind: int
    loading: Loading
    alone: SingleUser
    contexts: list[Row]
    users: list[Row]
    adapters: list[Row]


def tables(figures: ScaleFigures) -> str:
    """A table for each thing measured, and the conditions below them."""
    behind = f"{figures.behind} tokens behind each"
    step = ("ms a step", "tokens/s")
    return "\n".join([
        _table("Loading, each in a process of its own", _loading(figures.loading)),
        _table(f"One user, {behind}", _single_user(figures.alone)),
        *_shares(figures.alone),
        _table("One user, against the context",
               _cells(figures.contexts, "tokens before", "ms a token", "prefill tokens/s")),
        _table(f"Users on the base, {behind}", _cells(figures.users, "users", *step)),
        _table(f"Adapters of rank 16 on all modules, {behind}",
               _cells(figures.adapters, "adapters", "users", *step)),
        f"Medians; GB are 10^9 bytes. {figures.machine}, {figures.threads} threads; "
        f"{figures.model}; steps: {figures.steps}",
    ])  # fmt: skip


def _table(title: str, cells: Cells) -> str:
    return "\n".join([title, *(f"  {line}" for line in align_columns(cells, text_columns=1)), ""])


def _cells(rows: Sequence[Row], *header: str) -> Cells:
    """The header and the rows' values; those that are counts are integers."""
    values = [
        [str(value) if isinstance(value, int) else format_number(value) for value in row.values()]
        for row in rows
    ]
    return [header, *values]


def _loading(loading: Loading) -> Cells:
    rows = [["", "s", "peak GB", "at most GB", ""]]
    bound = _gigabytes(loading.bound_bytes)
    for title, cost in (
        ("from the model's files", loading.source),
        ("from the cache of int8 weights", loading.cache),
    ):
        if cost is None:
            missing = format_number(None)
            rows.append([title, missing, missing, bound, "there was no room to keep it"])
        else:
            verdict = "" if cost.in_bounds else "MORE THAN IT MAY"
            figures = format_number(cost.seconds), _gigabytes(cost.peak_bytes)
            rows.append([title, *figures, bound, verdict])
    return rows


def _single_user(user: SingleUser) -> Cells:
    return [
        ("", "ms a token", "tokens/s"),
        *(
            (name, format_number(ms), format_number(1000 / ms))
            for name, ms in (("ours", user.ms), ("llama.cpp", user.llama_cpp_ms))
            if ms
        ),
    ]


def _shares(user: SingleUser) -> list[str]:
    lines = [
        f"  A token reads {_gigabytes(user.bytes_a_token)} GB of weights, so ours reads "
        f"{_gigabytes(user.reads)} GB/s: {100 * user.share:.0f}% of the "
        f"{_gigabytes(user.machine_reads)} GB/s that this machine was seen to read."
    ]
    if user.times_as_fast:
        lines.append(f"  Ours is {format_ratio(user.times_as_fast)} as fast as llama.cpp.")
    return [*lines, f"  llama.cpp: {user.llama_cpp}", ""]


def _gigabytes(nbytes: float) -> str:
    return format_number(nbytes / 1e9)
