"""The figures as tables."""

from __future__ import annotations

from collections.abc import Sequence

from bench.report import aligned, number, times
from bench.scaling.figures import Alone, Figures, Load, Loading

Rows = Sequence[Sequence[str]]


def tables(figures: Figures) -> str:
    """One for each thing measured, and the conditions below them."""
    behind = f"{figures.behind} tokens behind each"
    parts = [
        _table("Loading, each in a process of its own", _loading(figures.loading)),
        _table(f"One user, {behind}", _alone(figures.alone)),
        *_shares(figures.alone),
        _table("One user, against the context", _contexts(figures)),
        _table(f"Users on the base, {behind}", _users(figures)),
        _table(f"Adapters of rank 16 on all modules, {behind}", _adapters(figures)),
        f"Medians; GB are 10^9 bytes. {figures.machine}, {figures.threads} threads; "
        f"{figures.model}; steps: {figures.steps}",
    ]
    return "\n".join(parts)


def _table(title: str, rows: Rows) -> str:
    return "\n".join([title, *(f"  {line}" for line in aligned(rows, words=1)), ""])


def _loading(loading: Loading) -> Rows:
    head = ["", "s", "peak GB", "at most GB", ""]
    return [
        head,
        _load("from the model's files", loading.source, loading.bound_bytes),
        _load("from the cache of int8 weights", loading.cache, loading.bound_bytes),
    ]


def _load(title: str, load: Load | None, bound: int) -> list[str]:
    if load is None:
        return [title, number(None), number(None), _giga(bound), "there was no room to keep it"]
    verdict = "" if load.in_bounds else "MORE THAN IT MAY"
    return [title, number(load.seconds), _giga(load.peak_bytes), _giga(bound), verdict]


def _alone(alone: Alone) -> Rows:
    rows = [
        ["", "ms a token", "tokens/s"],
        ["ours", number(alone.ms), number(1000 / alone.ms)],
    ]
    if alone.llama_cpp_ms:
        speed = number(1000 / alone.llama_cpp_ms)
        rows.append(["llama.cpp", number(alone.llama_cpp_ms), speed])
    return rows


def _shares(alone: Alone) -> list[str]:
    lines = [
        f"  A token reads {_giga(alone.bytes_a_token)} GB of weights, so ours reads "
        f"{_giga(alone.reads)} GB/s: {100 * alone.share:.0f}% of the {_giga(alone.machine_reads)} "
        "GB/s that this machine was seen to read."
    ]
    if alone.times_as_fast:
        lines.append(f"  Ours is {times(alone.times_as_fast)} as fast as llama.cpp.")
    return [*lines, f"  llama.cpp: {alone.llama_cpp}", ""]


def _contexts(figures: Figures) -> Rows:
    head = ["tokens before", "ms a token", "prefill tokens/s"]
    return [
        head,
        *(
            [str(at.context), number(at.ms), number(at.prefill_tokens_per_second)]
            for at in figures.contexts
        ),
    ]


def _users(figures: Figures) -> Rows:
    head = ["users", "ms a step", "tokens/s"]
    return [
        head,
        *([str(at.users), number(at.ms), number(at.tokens_per_second)] for at in figures.users),
    ]


def _adapters(figures: Figures) -> Rows:
    head = ["adapters", "users", "ms a step", "tokens/s"]
    return [
        head,
        *(
            [str(at.adapters), str(at.users), number(at.ms), number(at.tokens_per_second)]
            for at in figures.adapters
        ),
    ]


def _giga(nbytes: float) -> str:
    return number(nbytes / 1e9)
