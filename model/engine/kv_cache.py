"""A sequence's keys and values, contiguous by layer, growing as the sequence does."""

from __future__ import annotations

import torch
from torch import Tensor

from model.layers.kv_layout import CacheFormat, KVPointers

GROWTH = 256  # positions; a chat turn grows its cache once or twice


class SequenceCache:
    """Keys, [layers, kv_heads, capacity / block, head_dim, block], and values, [layers, kv_heads,
    capacity, head_dim].

    `length` positions are filled in every layer. While a forward runs, a layer may already hold
    the positions that `advance` will count.
    """

    def __init__(self, form: CacheFormat) -> None:
        self.length = 0
        self._block = form.block
        heads = form.num_layers, form.num_kv_heads
        like = torch.empty(0, dtype=form.dtype, device=form.device)
        self._k = like.new_empty(*heads, 0, form.head_dim, form.block)
        self._v = like.new_empty(*heads, 0, form.head_dim)
        self._place = _place(self._k, self._v)

    @property
    def capacity(self) -> int:
        """Positions that there is room for."""
        return self._v.shape[2]

    @property
    def nbytes(self) -> int:
        """Memory in bytes, the unfilled part included."""
        return self._k.nbytes + self._v.nbytes

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store `k` and `v` [new, kv_heads, head_dim] behind the filled positions of `layer`.

        Returns:
            All keys and values of the layer, [kv_heads, length + new, head_dim]: views, but for
            keys in blocks.
        """
        end = self.length + len(k)
        self.reserve(end)
        places = torch.arange(self.length, end, device=k.device)
        self._k[layer][:, places // self._block, :, places % self._block] = k.to(self._k.dtype)
        self._v[layer, :, self.length : end] = v.transpose(0, 1)
        keys = self._k[layer].transpose(-1, -2).flatten(1, 2)
        return keys[:, :end], self._v[layer, :, :end]

    def pointers(self, needed: int) -> KVPointers:
        """Where keys and values lie, with room for `needed` positions."""
        self.reserve(needed)
        return self._place

    def reserve(self, needed: int) -> None:
        """Make room for `needed` positions, whole steps of GROWTH, unless there is."""
        if needed > self.capacity:
            self._resize(rounded(needed))

    def advance(self, new: int) -> None:
        """Count `new` positions that every layer has stored."""
        self.length += new

    def rollback(self, count: int) -> None:
        """Forget the last `count` positions."""
        self.length -= count

    def shrink(self) -> None:
        """Give back the room that is not filled, where it is most of it: it costs a copy."""
        if self.capacity > 2 * self.length:
            self._resize(-(-self.length // self._block) * self._block)

    def copy_from(self, other: SequenceCache, stop: int) -> None:
        """Fill the positions from `length` to `stop` with those of `other`, which begins alike."""
        self.reserve(stop)
        blocks = slice(self.length // self._block, -(-stop // self._block))
        with torch.inference_mode():  # what a forward has allocated is not to be written without
            self._k[:, :, blocks] = other._k[:, :, blocks]
            self._v[:, :, self.length : stop] = other._v[:, :, self.length : stop]
        self.length = stop

    def _resize(self, capacity: int) -> None:
        # Not one by one: a failure in between would leave them unequal.
        blocks = capacity // self._block
        self._k, self._v = _resized(self._k, blocks), _resized(self._v, capacity)
        self._place = _place(self._k, self._v)


def _place(keys: Tensor, values: Tensor) -> KVPointers:
    """A head's keys take as much room as its values, so the strides are the same."""
    return KVPointers(keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1))


def _resized(old: Tensor, size: int) -> Tensor:
    """`old` with its third axis cut or extended to `size`."""
    kept = min(old.shape[2], size)
    new = old.new_empty(*old.shape[:2], size, *old.shape[3:])
    new[:, :, :kept] = old[:, :, :kept]
    return new


def rounded(positions: int) -> int:
    """Up to whole steps of GROWTH."""
    return -(-positions // GROWTH) * GROWTH
