"""Fingerprint of a base model: a sample of its weights, which tells whether two bases are the same.

Shapes do not tell: all 13B models have the same shapes, and an adapter of one loads on any other. A
checksum of the files does not either: a conversion changes every byte. The values of a few weights
stay the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from model.folders.model_folder import ModelFolder
from model.tensor_names import LINEAR_PATHS, layer_path

COUNT = 32  # sampled values of each tensor
# Attention and feed-forward of the first layer: they differ in all models trained independently.
SAMPLED = tuple(f"{layer_path(0, LINEAR_PATHS[name])}.weight" for name in ("q_proj", "down_proj"))
STEP = 104_729  # a prime, so that the samples come from all rows and columns
DIGITS = 4

# Relative distances between samples. Rounding to bfloat16 moves a sample by 0.002, 4-bit
# quantisation by less than 0.1. For models trained independently the distance is near 1.4.
SAME, RELATED = 0.02, 0.5


def fingerprint(folder: ModelFolder) -> list[float]:
    """Samples the weights in `folder`; returns no value if they are not those of a LLaMA.

    Raises:
        ModelFolderError: a file is torn.
    """
    tensors = {tensor.name: tensor for _, tensor in folder.tensors()}
    sample: list[float] = []
    for name in SAMPLED:
        if name not in tensors:
            return []
        values = tensors[name].read().flatten()
        positions = [index * STEP % len(values) for index in range(1, COUNT + 1)]
        sample += [float(f"{value:.{DIGITS}g}") for value in values[positions].tolist()]
    return sample


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the relative distance of two samples; infinite if they cannot be compared."""
    if len(a) != len(b) or not a:
        return math.inf
    return math.dist(a, b) / max(math.hypot(*a), math.hypot(*b), 1e-12)
