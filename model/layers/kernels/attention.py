"""Attention of one new position in one head, over keys and values in float16."""

from __future__ import annotations

import numpy as np

from model.layers.kernels.atoms import float_to_half, half_to_float
from model.layers.kernels.options import fast
from model.layers.kernels.quantized import exp


@fast
def append(keys, values, k, v):
    """Store `k` and `v`, float32 [head_dim], as the last position of both."""
    last = len(keys) - 1
    for i in range(len(k)):
        keys[last, i] = float_to_half(k[i])
        values[last, i] = float_to_half(v[i])


@fast
def rotate(x, cos, sin):
    """Rotary embedding of `x`, float32 [head_dim], in place."""
    half = len(x) // 2
    for i in range(half):
        low, high = x[i], x[i + half]
        x[i] = low * cos[i] - high * sin[i]
        x[i + half] = high * cos[i + half] + low * sin[i + half]


@fast
def weigh(q, keys, weights):
    """softmax(q K^T / sqrt(head_dim)) -> `weights`, float32 [length]."""
    factor = np.float32(1) / np.sqrt(np.float32(len(q)))
    highest = np.float32(-np.inf)
    for p in range(len(weights)):
        score = np.float32(0)
        for i in range(len(q)):
            score += q[i] * half_to_float(keys[p, i])
        weights[p] = score * factor
        highest = max(highest, weights[p])
    total = np.float32(0)
    for p in range(len(weights)):
        weights[p] = exp(weights[p] - highest)
        total += weights[p]
    for p in range(len(weights)):
        weights[p] /= total


@fast
def mix(weights, values, out):
    """out, float32 [head_dim] = weights V."""
    out[:] = 0
    for p in range(len(weights)):
        weight = weights[p]
        for i in range(len(out)):
            out[i] += weight * half_to_float(values[p, i])
