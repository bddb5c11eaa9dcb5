"""Attention of one new position in one head, over keys and values in float16."""

from __future__ import annotations

import numpy as np

from model.layers.kernels.atoms import float_to_half
from model.layers.kernels.half import dots, mix
from model.layers.kernels.memory import floats
from model.layers.kernels.options import fast
from model.layers.kernels.quantized import exp


@fast
def narrow(x, halves):
    """float32 `x` -> float16 `halves`."""
    for i in range(len(x)):
        halves[i] = float_to_half(x[i])


@fast
def rotate(x, cos, sin):
    """Rotary embedding of `x`, float32 [head_dim], in place."""
    half = len(x) // 2
    for i in range(half):
        low, high = x[i], x[i + half]
        x[i] = low * cos[i] - high * sin[i]
        x[i + half] = high * cos[i + half] + low * sin[i + half]


@fast
def attend_head(q, keys, values, length, size, weights, out):
    """out = softmax(q K^T / sqrt(size)) V.

    Addresses: float32 `q` and `out` [size], float16 `keys` and `values` [length, size], and room
    for float32 `weights` [length].
    """
    dots(keys, 2 * size, length, q, size, weights)
    soften(floats(weights, length), np.float32(1) / np.sqrt(np.float32(size)))
    floats(out, size)[:] = 0
    mix(values, 2 * size, weights, length, size, out)


@fast
def soften(scores, factor):
    """softmax(factor * scores), in place."""
    highest = scores[0]
    for p in range(len(scores)):
        highest = max(highest, scores[p])
    total = np.float32(0)
    for p in range(len(scores)):
        scores[p] = exp((scores[p] - highest) * factor)
        total += scores[p]
    share = np.float32(1) / total
    for p in range(len(scores)):
        scores[p] *= share
