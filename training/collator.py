"""Examples as the batches that transformers' LLaMA learns from: one row, hardly padded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from training.encoding import IGNORED, Example

if TYPE_CHECKING:
    from torch import Tensor

GRAIN = 32  # what numbers of tokens and of logits are multiples of

Row = dict[str, list[int]]


def dataset(examples: Sequence[Example]) -> list[Row]:
    """What a Trainer takes; "input_ids" is where it looks for lengths."""
    return [{"input_ids": list(e.ids), "labels": list(e.labels)} for e in examples]


def collate(rows: Sequence[Row]) -> dict[str, Tensor | bool]:
    """Examples behind each other in one row of N tokens, of which K predict a learned one.

    Positions start over with each example, from which transformers knows that none may look into
    another (only without a cache of keys and values, hence `use_cache`). Logits are computed where
    they are needed and nowhere else: over a large vocabulary those of prompts cost more than
    attention does. N and K are filled up with an example of nothing and with logits that are
    ignored: for each new size, torch's CPU code is compiled again.

    Returns:
        input_ids and position_ids [1, N]; logits_to_keep [K], places in the row; shift_labels, and
        labels for the Trainer's count, [1, K]; use_cache, which is False.
    """
    import torch

    starts = list(accumulate((len(row["input_ids"]) for row in rows), initial=0))
    filler = -starts[-1] % GRAIN
    positions = chain(*(range(len(row["input_ids"])) for row in rows), range(filler))
    predicting = [
        (start + place, label)
        for start, row in zip(starts, rows, strict=False)
        for place, label in enumerate(row["labels"][1:])
        if label != IGNORED
    ]
    predicting += [(0, IGNORED)] * (-len(predicting) % GRAIN)
    targets = torch.tensor([[label for _, label in predicting]])
    return {
        "input_ids": torch.tensor([[i for row in rows for i in row["input_ids"]] + [0] * filler]),
        "position_ids": torch.tensor([list(positions)]),
        "logits_to_keep": torch.tensor([place for place, _ in predicting]),
        "labels": targets,
        "shift_labels": targets,
        "use_cache": False,
    }
