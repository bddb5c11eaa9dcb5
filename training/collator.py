"""Packs examples into batches for transformers' LLaMA: one row each, with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING

from training.encoding import IGNORED, Example

if TYPE_CHECKING:
    from torch import Tensor

SIZE_MULTIPLE = 32  # the numbers of tokens and of logits are multiples of it

Row = dict[str, list[int]]


def training_rows(examples: Sequence[Example]) -> list[Row]:
    """The examples as a Trainer's data set; it reads lengths from "input_ids"."""
    return [
        {"input_ids": list(e.ids), "labels": list(e.labels), "starts": list(e.starts)}
        for e in examples
    ]


def collate(rows: Sequence[Row]) -> dict[str, Tensor | bool]:
    """Packs examples one after the other into one row of N tokens, K of which predict a label.

    Positions start again at 0 with each sequence; from that, transformers knows that a sequence
    must not attend to another one (only without a KV cache, hence `use_cache`). Logits are computed
    only where there is a label: with a large vocabulary, the logits of prompts would cost more than
    attention does. N and K are padded, with filler tokens and with ignored labels, because torch's
    CPU code is compiled again for each new size.

    Returns:
        input_ids and position_ids [1, N]; logits_to_keep [K], positions in the row; shift_labels,
        and labels for the Trainer's count, [1, K]; use_cache, which is False.
    """
    import torch

    ids = [token for row in rows for token in row["input_ids"]]
    labels = [label for row in rows for label in row["labels"]]
    offsets = accumulate((len(row["input_ids"]) for row in rows), initial=0)
    starts = [
        offset + start
        for offset, row in zip(offsets, rows, strict=False)
        for start in row["starts"]
    ]
    padding = -len(ids) % SIZE_MULTIPLE
    ends = [*starts[1:], len(ids), len(ids) + padding]
    positions = chain(
        *(range(end - start) for start, end in zip([*starts, len(ids)], ends, strict=True))
    )
    first = set(starts)
    targets = [
        (place - 1, label)
        for place, label in enumerate(labels)
        if label != IGNORED and place not in first
    ]
    targets += [(0, IGNORED)] * (-len(targets) % SIZE_MULTIPLE)
    shifted = torch.tensor([[label for _, label in targets]])
    return {
        "input_ids": torch.tensor([ids + [0] * padding]),
        "position_ids": torch.tensor([list(positions)]),
        "logits_to_keep": torch.tensor([position for position, _ in targets]),
        "labels": shifted,
        "shift_labels": shifted,
        "use_cache": False,
    }
