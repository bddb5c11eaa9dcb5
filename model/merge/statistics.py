"""What merging did to the numbers, counted while they pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.diagnostics import adapter_error

SAMPLED = 8  # of so many pieces of a layer, one is measured


@dataclass
class MergeStatistics:
    """How many layers were merged, how many of them changed, and how far the weights moved, which
    is measured on a sample. `partial` where others were merged before an interruption."""

    layers: int = 0
    changed: int = 0
    partial: bool = False
    _moved: float = 0.0  # squares of lengths
    _whole: float = 0.0
    _has_changed: bool = False  # the layer whose pieces come
    _pieces: int = 0

    def begin(self) -> None:
        """The next layer's pieces come."""
        self.layers += 1
        self._has_changed = False
        self._pieces = 0

    def count(self, name: str, before: Tensor, after: Tensor) -> None:
        """Count some rows of the layer `name`: `after` in the type that is written, `before` the
        base's, which are fewer where it has no more.

        Raises:
            AdapterError: `after` holds what is no number.
        """
        if not after.sum(dtype=torch.float32).isfinite() and not after.isfinite().all():
            raise adapter_error("merge_not_finite", layer=name)
        old = before.to(after.dtype)
        if not self._has_changed and not old.equal(after):
            self._has_changed = True
            self.changed += 1
        if self._pieces % SAMPLED == 0:
            new, old = after[: len(old)].float(), old[: len(after)].float()
            self._moved += float((new - old).norm()) ** 2
            self._whole += float(old.norm()) ** 2
        self._pieces += 1

    @property
    def share(self) -> float:
        """How far the weights have moved, as a share of their own length."""
        return (self._moved / self._whole) ** 0.5 if self._whole else 0.0
