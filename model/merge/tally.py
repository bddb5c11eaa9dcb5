"""What merging did to the numbers, counted while they pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.findings import adapter_error

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Tally:
    """Of the layers that were merged: how many, how many of them changed, and by how much."""

    layers: int = 0
    changed: int = 0
    moved: float = 0.0
    whole: float = 0.0

    def count(self, name: str, before: Tensor, after: Tensor) -> None:
        """Count the layer `name`, both in the type that is written.

        Raises:
            AdapterError: `after` holds what is no number.
        """
        if not after.isfinite().all():
            raise adapter_error("merge_not_finite", layer=name)
        self.layers += 1
        if before.shape != after.shape:
            self.changed += 1
            return
        self.changed += not before.equal(after)
        self.moved += float((after.float() - before.float()).norm()) ** 2
        self.whole += float(before.float().norm()) ** 2

    @property
    def share(self) -> float:
        """How far the weights have moved, as a share of their own length."""
        return (self.moved / self.whole) ** 0.5 if self.whole else 0.0
