"""One sequence's keys and values, contiguous by layer; grows with the sequence."""

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

    def __init__(self, cache_format: CacheFormat) -> None:
        self.length = 0
        self._block = cache_format.block
        heads = cache_format.num_layers, cache_format.num_kv_heads
        like = torch.empty(0, dtype=cache_format.dtype, device=cache_format.device)
        self._k = like.new_empty(*heads, 0, cache_format.head_dim, cache_format.block)
        self._v = like.new_empty(*heads, 0, cache_format.head_dim)
        self._pointers = _pointers(self._k, self._v)

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
        """The addresses of keys and values, with room for `needed` positions."""
        self.reserve(needed)
        return self._pointers

    def reserve(self, needed: int) -> None:
        """Make room for `needed` positions, in steps of GROWTH, unless there is."""
        if needed > self.capacity:
            self._resize(rounded(needed))

    def advance(self, new: int) -> None:
        """Count `new` positions that every layer has stored."""
        self.length += new

    def rollback(self, count: int) -> None:
        """Forget the last `count` positions."""
        self.length -= count

    def shrink(self) -> None:
        """Free the room that is not filled, where it is most of it: shrinking costs a copy."""
        if self.capacity > 2 * self.length:
            self._resize(-(-self.length // self._block) * self._block)

    def copy_from(self, other: SequenceCache, stop: int) -> None:
        """Fill the positions from `length` to `stop` with those of `other`, whose tokens up to
        `stop` are the same."""
        self.reserve(stop)
        blocks = slice(self.length // self._block, -(-stop // self._block))
        with torch.inference_mode():  # tensors that a forward has allocated are written only in it
            self._k[:, :, blocks] = other._k[:, :, blocks]
            self._v[:, :, self.length : stop] = other._v[:, :, self.length : stop]
        self.length = stop

    def _resize(self, capacity: int) -> None:
        # Both at once: a failure between two assignments would leave different sizes.
        blocks = capacity // self._block
        self._k, self._v = _resized(self._k, blocks), _resized(self._v, capacity)
        self._pointers = _pointers(self._k, self._v)


def _pointers(keys: Tensor, values: Tensor) -> KVPointers:
    """A head's keys take as much room as its values, so the strides are the same."""
    return KVPointers(keys.data_ptr(), values.data_ptr(), keys.stride(0), keys.stride(1))


def _resized(old: Tensor, size: int) -> Tensor:
    """`old` with its third axis cut or extended to `size`."""
    common = min(old.shape[2], size)
    new = old.new_empty(*old.shape[:2], size, *old.shape[3:])
    new[:, :, :common] = old[:, :, :common]
    return new


def rounded(positions: int) -> int:
    """`positions` rounded up to a multiple of GROWTH."""
    return -(-positions // GROWTH) * GROWTH
