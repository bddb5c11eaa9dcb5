"""What merging did to the numbers, counted while they pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.findings import adapter_error

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Tally:
    """How many layers were merged, how many of them changed, and how far the weights moved."""

    layers: int = 0
    changed: int = 0
    moved: float = 0.0  # squares of lengths
    whole: float = 0.0
    _has_changed: bool = False  # the layer whose rows come

    def begin(self) -> None:
        """The next layer's rows come."""
        self.layers += 1
        self._has_changed = False

    def count(self, name: str, before: Tensor, after: Tensor) -> None:
        """Count rows of the layer `name`: `after` in the type that is written, `before` the base's,
        which are fewer where it has no more.

        Raises:
            AdapterError: `after` holds what is no number.
        """
        new, old = after.float(), before.to(after.dtype).float()
        if not new.sum().isfinite() and not new.isfinite().all():
            raise adapter_error("merge_not_finite", layer=name)
        moved = float((new[: len(old)] - old[: len(new)]).norm()) ** 2
        self.moved += moved
        self.whole += float(old.norm()) ** 2
        if (moved or len(new) != len(old)) and not self._has_changed:
            self._has_changed = True
            self.changed += 1

    @property
    def share(self) -> float:
        """How far the weights have moved, as a share of their own length."""
        return (self.moved / self.whole) ** 0.5 if self.whole else 0.0
