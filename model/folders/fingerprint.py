"""Whether two bases are the same: a few of their weights, held against each other.

Shapes cannot tell: all 13B models have the same, and an adapter of one loads on any other. A sum of
the files cannot either, because conversions change every byte. A sample of numbers survives both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from model.folders.model_folder import ModelFolder
from model.tensor_names import LINEAR_PATHS, layer_path

COUNT = 32  # numbers of each tensor
# Attention and feed-forward of the first layer: no two models that were trained apart agree there.
SAMPLED = tuple(f"{layer_path(0, LINEAR_PATHS[name])}.weight" for name in ("q_proj", "down_proj"))
STEP = 104_729  # a prime, so that the samples come from all rows and columns
DIGITS = 4

# Distances between samples, as shares of their length. Rounding to bfloat16 moves them by 0.002,
# 4-bit quantisation by less than 0.1; of models that were trained apart they are near 1.4.
SAME, RELATED = 0.02, 0.5


def fingerprint(folder: ModelFolder) -> list[float]:
    """A sample of the weights in `folder`; empty if they are not those of a LLaMA.

    Raises:
        ModelFolderError: a file is torn.
    """
    tensors = {tensor.name: tensor for _, tensor in folder.tensors()}
    numbers: list[float] = []
    for name in SAMPLED:
        if name not in tensors:
            return []
        values = tensors[name].read().flatten()
        places = [index * STEP % len(values) for index in range(1, COUNT + 1)]
        numbers += [float(f"{value:.{DIGITS}g}") for value in values[places].tolist()]
    return numbers


def distance(one: Sequence[float], other: Sequence[float]) -> float:
    """How far two samples are apart, as a share of their length; infinite if none compares."""
    if len(one) != len(other) or not one:
        return math.inf
    apart = math.dist(one, other)
    return apart / max(math.hypot(*one), math.hypot(*other), 1e-12)
