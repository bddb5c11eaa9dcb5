"""What `bench/scale.py` finds out, as it prints it in JSON. Times are medians."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """One loading in a process of its own: seconds, and bytes of memory at the peak.

    `in_bounds`: it took no more than `Loading.bound_bytes`.
    """

    seconds: float
    peak_bytes: int
    in_bounds: bool


@dataclass(frozen=True)
class Loading:
    """From the model's files, and from the cache of quantised weights, if there was room for one.

    The bound is made of the weights in int8 and of the largest tensor as the files hold it.
    """

    int8_bytes: int
    largest_bytes: int
    bound_bytes: int
    source: Load
    cache: Load | None


@dataclass(frozen=True)
class Alone:
    """One user. `bytes_a_token` are weights and scales that a token reads, `reads` those a second.

    `machine_reads` is what as many threads read of a large buffer in a second, the best of several
    attempts between our turns; `share` is the part of it that we use. `llama_cpp_ms` is None where
    llama.cpp was not measured, `llama_cpp` says why, or what it is; `times_as_fast` as it, we are.
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
class AtContext:
    """One user behind `context` tokens: a token's time, and how fast a prompt's next are read."""

    context: int
    ms: float
    prefill_tokens_per_second: float


@dataclass(frozen=True)
class WithUsers:
    """A step for all `users`, each of whom gets a token."""

    users: int
    ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class WithAdapters:
    """A step for all `users`, who are on so many `adapters`; on the base alone where it is 0."""

    adapters: int
    users: int
    ms: float
    tokens_per_second: float


@dataclass(frozen=True)
class Figures:
    """Everything, with the conditions. `behind` tokens lie behind each user of the last tables."""

    machine: str
    model: str
    threads: int
    steps: int
    behind: int
    loading: Loading
    alone: Alone
    contexts: list[AtContext]
    users: list[WithUsers]
    adapters: list[WithAdapters]
