"""Statistics of a merge: how many layers changed, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.diagnostics import adapter_error

SAMPLE_INTERVAL = 8  # one of so many chunks of a layer is measured


@dataclass
class MergeStatistics:
    """Counts the merged layers and the changed ones, and measures on a sample how far the weights
    moved. `partial` if other layers were merged before an interruption."""

    layers: int = 0
    changed: int = 0
    partial: bool = False
    _moved: float = 0.0  # sum of squares of the differences
    _length: float = 0.0  # sum of squares of the base's weights
    _layer_changed: bool = False
    _chunks: int = 0  # of the current layer

    def begin(self) -> None:
        """Starts the next layer."""
        self.layers += 1
        self._layer_changed = False
        self._chunks = 0

    def count(self, name: str, before: Tensor, after: Tensor) -> None:
        """Counts a chunk of rows of the layer `name`.

        `after` has the dtype that is written; `before` are the base's rows, fewer if its vocabulary
        is smaller.

        Raises:
            AdapterError: `after` contains NaN or infinity.
        """
        if not after.sum(dtype=torch.float32).isfinite() and not after.isfinite().all():
            raise adapter_error("merge_not_finite", layer=name)
        old = before.to(after.dtype)
        if not self._layer_changed and not old.equal(after):
            self._layer_changed = True
            self.changed += 1
        if self._chunks % SAMPLE_INTERVAL == 0:
            new, old = after[: len(old)].float(), old[: len(after)].float()
            self._moved += float((new - old).norm()) ** 2
            self._length += float(old.norm()) ** 2
        self._chunks += 1

    @property
    def share(self) -> float:
        """How far the weights have moved, as a share of their own length."""
        return (self._moved / self._length) ** 0.5 if self._length else 0.0
