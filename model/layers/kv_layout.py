"""What the forward asks of a sequence's keys and values, and how they lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class CacheFormat:
    """How keys and values lie in memory: layer by layer, head by head.

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
    """Addresses, and strides in elements, which are the keys' and the values'."""

    keys: int
    values: int
    layer_stride: int
    head_stride: int


class KeyValues(Protocol):
    """A sequence's keys and values, all layers."""

    length: int

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store [new, kv_heads, head_dim] at `length`; all so far, [kv_heads, length + new, …]."""
        ...

    def pointers(self, needed: int) -> KVPointers:
        """Where all of it lies, with room for `needed` positions."""
        ...

    def advance(self, new: int) -> None:
        """Every layer has stored `new` positions: count them."""
        ...
