"""A sequence's keys and values, contiguous by layer, growing as the sequence does."""

from __future__ import annotations

import torch
from torch import Tensor

from model.layers.llama import LlamaShape

GROWTH = 256  # positions; a chat turn grows its cache once or twice


class SequenceCache:
    """[layers, kv_heads, capacity, head_dim] of keys, and the same of values.

    `length` positions are filled in every layer. While a forward runs, a layer may already hold
    the positions that `advance` will count.
    """

    def __init__(self, shape: LlamaShape, dtype: torch.dtype, device: str) -> None:
        self.length = 0
        self._k = torch.empty(
            shape.num_layers, shape.num_kv_heads, 0, shape.head_dim, dtype=dtype, device=device
        )
        self._v = torch.empty_like(self._k)

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return self._k.shape[2]

    @property
    def nbytes(self) -> int:
        """Memory in bytes, the unfilled part included."""
        return self._k.nbytes + self._v.nbytes

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store `k` and `v` [new, kv_heads, head_dim] behind the filled positions of `layer`.

        Returns:
            All keys and values of the layer, views of [kv_heads, length + new, head_dim].
        """
        end = self.length + len(k)
        self.reserve(end)
        self._k[layer, :, self.length : end] = k.transpose(0, 1)
        self._v[layer, :, self.length : end] = v.transpose(0, 1)
        return self._k[layer, :, :end], self._v[layer, :, :end]

    def storage(self, needed: int) -> tuple[Tensor, Tensor]:
        """Keys and values, [layers, kv_heads, capacity, head_dim], with room for `needed`."""
        self.reserve(needed)
        return self._k, self._v

    def reserve(self, needed: int) -> None:
        """Make room for `needed` positions, whole steps of GROWTH, unless there is."""
        if needed > self.capacity:
            self._resize(rounded(needed))

    def advance(self, new: int) -> None:
        """Count `new` positions that every layer has stored."""
        self.length += new

    def retreat(self, count: int) -> None:
        """Forget the last `count` positions."""
        self.length -= count

    def trim(self) -> None:
        """Give back the room that is not filled, where it is most of it: it costs a copy."""
        if self.capacity > 2 * self.length:
            self._resize(self.length)

    def copy_from(self, other: SequenceCache, stop: int) -> None:
        """Fill the positions from `length` up to `stop` with those of `other`."""
        keys, values = self.storage(stop)
        with torch.inference_mode():  # what a forward has allocated is not to be written without
            keys[:, :, self.length : stop] = other._k[:, :, self.length : stop]
            values[:, :, self.length : stop] = other._v[:, :, self.length : stop]
        self.length = stop

    def _resize(self, capacity: int) -> None:
        # Not one by one: a failure in between would leave them unequal.
        self._k, self._v = self._resized(self._k, capacity), self._resized(self._v, capacity)

    def _resized(self, old: Tensor, capacity: int) -> Tensor:
        layers, heads, filled, head_dim = old.shape
        kept = min(filled, capacity)
        new = old.new_empty(layers, heads, capacity, head_dim)
        new[:, :, :kept] = old[:, :, :kept]
        return new


def rounded(positions: int) -> int:
    """Up to whole steps of GROWTH."""
    return -(-positions // GROWTH) * GROWTH
