"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) applied per sequence at run time.

The base's weights are never touched and there is no "active adapter": each sequence of a batch
brings its own, and each gets its own delta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LoraPair:
    """The low-rank update of one linear layer: y += scaling * x A^T B^T.

    `a` [rank, in_features], `b` [out_features, rank], in the activations' type and device.
    """

    a: Tensor
    b: Tensor
    scaling: float


@dataclass(frozen=True)
class Lora:
    """An adapter's updates by (layer index, module name), for example (3, "q_proj")."""

    pairs: Mapping[tuple[int, str], LoraPair]

    @property
    def nbytes(self) -> int:
        """Memory of the weights in bytes."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.pairs.values())


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
            delta = (x[group.start : group.stop] @ pair.a.T) @ pair.b.T
            y[group.start : group.stop, first:last].add_(delta, alpha=pair.scaling * group.scale)
