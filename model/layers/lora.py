"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) applied per sequence at run time.

The base's weights are never touched and there is no "active adapter": each sequence of a batch
brings its own, and each gets its own delta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.layers.kernels.layout import HALVES
from model.layers.linear import Linear


@dataclass(frozen=True)
class LoraPair:
    """The low-rank update of one linear layer: y += scaling * x A^T B^T.

    `a` [rank, in_features], `b` [out_features, rank], on the activations' device and in their
    type or in float16; compiled code relies on both lying in memory column by column, and on the
    columns of `a` being padded to whole vectors.
    """

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def nbytes(self) -> int:
        """Memory of the weights in bytes, padding included."""
        return self.a.untyped_storage().nbytes() + self.b.nbytes


def make_pair(a: Tensor, b: Tensor, scaling: float, dtype: torch.dtype, device: str) -> LoraPair:
    """A pair from `a` [rank, in_features] and `b` [out_features, rank] of any float type."""
    if dtype == torch.float16:
        # Small updates would lose digits below float16's normal range: a power of two costs none.
        power = 2.0 ** math.floor(math.log2(b.abs().max().item() or 1.0))
        b, scaling = b.float() / power, scaling * power
    rank, padding = len(a), -len(a) % HALVES
    columns = functional.pad(a.to(device, dtype).T, (0, padding)).contiguous()
    b = b.to(device, dtype, copy=True).T.contiguous().T
    return LoraPair(columns[:, :rank].T, b, scaling)


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter's updates by (layer index, module name), for example (3, "q_proj").

    `embedding` and `head`, where it has them, stand in for the base's.
    """

    pairs: Mapping[tuple[int, str], LoraPair]
    embedding: Linear | None = None
    head: Linear | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the weights in bytes."""
        whole = sum(layer.nbytes for layer in (self.embedding, self.head) if layer)
        return whole + sum(pair.nbytes for pair in self.pairs.values())


@dataclass(frozen=True)
class LoraRows:
    """The rows [start, stop) of a batch that carry `lora`, at strength `scale`."""

    start: int
    stop: int
    lora: Lora
    scale: float


def add_deltas(
    y: Tensor,
    x: Tensor,
    layer: int,
    parts: Sequence[tuple[str, int, int]],
    groups: Sequence[LoraRows],
) -> None:
    """Add to `y` [rows, out] in place what the adapters of the rows contribute for `x` [rows, in].

    Args:
        layer: index of the decoder layer.
        parts: (module name, first column, column after the last) for the modules in `y`.
        groups: the rows that have an adapter.
    """
    for group in groups:
        for name, first, last in parts:
            pair = group.lora.pairs.get((layer, name))
            if pair is None:
                continue
            rows = x[group.start : group.stop]
            delta = (rows @ pair.a.to(x.dtype).T) @ pair.b.to(x.dtype).T
            y[group.start : group.stop, first:last].add_(delta, alpha=pair.scaling * group.scale)
