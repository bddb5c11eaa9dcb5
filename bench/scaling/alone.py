"""One user, against what the machine can read and against llama.cpp, turn by turn in one run."""

from __future__ import annotations

import time
from statistics import median

from bench.scaling.figures import Alone
from bench.scaling.forward import batch, filled
from bench.scaling.memory import Reader
from bench.scaling.options import BEHIND
from bench.scaling.rival import LlamaCppBaseline
from model.layers.linear import Int8Linear
from model.layers.llama import Llama

TURNS = 5


def measure_alone(
    model: Llama, reader: Reader, rival: LlamaCppBaseline | None, about: str, steps: int
) -> Alone:
    """`about` is what the rival is, or why there is none. A turn is so many `steps`.

    Raises:
        PeerError: the rival failed.
    """
    step = batch(model, [filled(model, BEHIND, 1)], 1)
    step()
    ours, read, theirs = [], [], []
    for _ in range(TURNS):
        began = time.perf_counter()
        for _ in range(steps):
            step()
        ours.append((time.perf_counter() - began) / steps)
        read.append(reader.attempt())
        if rival:
            theirs.append(rival.token_seconds())
    seconds, nbytes, most = median(ours), bytes_a_token(model), max(read)
    reads = nbytes / seconds
    their_ms = 1000 * median(theirs) if theirs else None
    return Alone(
        ms=1000 * seconds,
        bytes_a_token=nbytes,
        reads=reads,
        machine_reads=most,
        share=reads / most,
        llama_cpp=about,
        llama_cpp_ms=their_ms,
        times_as_fast=their_ms and their_ms / 1000 / seconds,
    )


def bytes_a_token(model: Llama) -> int:
    """Weights and scales of all linear layers; of the embedding, a token reads one row."""
    linears = [linear for linear in model.linears() if isinstance(linear, Int8Linear)]
    return sum(linear.packed.nbytes + linear.scale.nbytes for linear in linears)
