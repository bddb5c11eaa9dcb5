"""The memory layout of a sequence's keys and values, and what a forward needs of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from model.layers.kernels.records import KV_DTYPE

COMPACT_DTYPE: torch.dtype = getattr(torch, KV_DTYPE.name)  # beside 8-bit weights


@dataclass(frozen=True)
class CacheFormat:
    """How keys and values are stored: layer by layer, head by head.

    Values are [positions, head_dim]; keys [positions / block, head_dim, block], so with blocks of 1
    the same.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: str
    block: int = 1

    @property
    def position_bytes(self) -> int:
        """Memory of a token's keys and values, all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.dtype.itemsize


class KVPointers(NamedTuple):
    """Addresses, and strides in elements; the keys' strides are the values', too."""

    keys: int
    values: int
    layer_stride: int
    head_stride: int


class KeyValues(Protocol):
    """A sequence's keys and values, all layers."""

    length: int

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store [new, kv_heads, head_dim] at `length`; returns all so far, [kv_heads, length + new,
        head_dim] each."""
        ...

    def pointers(self, needed: int) -> KVPointers:
        """The addresses of keys and values, with room for `needed` positions."""
        ...

    def advance(self, new: int) -> None:
        """Count `new` positions that every layer has stored."""
        ...
