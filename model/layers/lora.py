"""LoRA (Hu et al. 2021, https://arxiv.org/abs/2106.09685) applied per sequence at run time.

The base's weights are never touched and there is no "active adapter": each sequence of a batch
brings its own, and each gets its own delta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from model.layers.kernels.records import VECTOR
from model.layers.linear import Linear, quantize_rows


class LoraPair(Protocol):
    """The low-rank update of one linear layer."""

    @property
    def nbytes(self) -> int:
        """Memory of the weights in bytes."""
        ...

    def delta(self, x: Tensor) -> Tensor:
        """Its addition to the layer's output for `x`: [rows, in] -> [rows, out]."""
        ...


@dataclass(frozen=True)
class FloatPair:
    """delta = scaling * x A^T B^T, with `a` [rank, in] and `b` [out, rank] on the activations'
    device and in their type."""

    a: Tensor
    b: Tensor
    scaling: float

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    def delta(self, x: Tensor) -> Tensor:
        return (x @ self.a.T) @ self.b.T * self.scaling


@dataclass(frozen=True)
class Int8Pair:
    """The same update in 8 bits, as compiled code reads it: `a` int8 [in, rank], the rank padded
    with zeros to a multiple of VECTOR, `b` int8 [rank, out], `scale` float32 [rank].

    delta = (x a * scale) b. Each matrix has one scale for each rank; `scale` is their product,
    times the scaling.
    """

    a: Tensor
    b: Tensor
    scale: Tensor

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes + self.scale.nbytes

    def delta(self, x: Tensor) -> Tensor:
        low_rank = x @ self.a[:, : len(self.scale)].to(x.dtype) * self.scale
        return low_rank.to(x.dtype) @ self.b.to(x.dtype)


def int8_pair(a: Tensor, b: Tensor, scaling: float) -> Int8Pair:
    """An Int8Pair from `a` [rank, in] and `b` [out, rank] of any float type."""
    (a, a_scale), (b, b_scale) = quantize_rows(a), quantize_rows(b.T)
    padded = functional.pad(a.T, (0, -len(a) % VECTOR)).contiguous()
    return Int8Pair(padded, b.contiguous(), a_scale * b_scale * scaling)


class LoraMaker(Protocol):
    """Makes the parts of an adapter in the form that its base needs."""

    def make_lora_pair(self, a: Tensor, b: Tensor, scaling: float) -> LoraPair:
        """scaling * B A, from `a` [rank, in] and `b` [out, rank] of any float type."""
        ...

    def make_layer(self, weight: Tensor) -> Linear:
        """An embedding or head that an adapter brings, [rows, hidden_size], as the base's are."""
        ...


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter's updates by (layer index, module name), for example (3, "q_proj").

    `embedding` and `head`, where it has them, replace the base's, and may have more rows.
    """

    pairs: Mapping[tuple[int, str], LoraPair]
    embedding: Linear | None = None
    head: Linear | None = None

    @property
    def nbytes(self) -> int:
        """Memory of the weights in bytes."""
        layers = sum(layer.nbytes for layer in (self.embedding, self.head) if layer)
        return layers + sum(pair.nbytes for pair in self.pairs.values())


@dataclass(frozen=True)
class LoraRows:
    """The rows [start, stop) of a batch that have the adapter `lora`."""

    start: int
    stop: int
    lora: Lora
    adapter_scale: float


def add_deltas(
    y: Tensor,
    x: Tensor,
    layer: int,
    parts: Sequence[tuple[str, int, int]],
    groups: Sequence[LoraRows],
) -> None:
    """Add to `y` [rows, out], in place, the deltas of the rows' adapters for `x` [rows, in].

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
            rows = slice(group.start, group.stop)
            y[rows, first:last].add_(pair.delta(x[rows]), alpha=group.adapter_scale)
