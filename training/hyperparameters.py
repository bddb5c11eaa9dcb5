"""Hyperparameters of a training run, with defaults that follow from the data and the base."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from model.errors import SettingsError

MIN_STEPS = 60  # with fewer, replies change too little
MAX_BATCH_SIZE = 128  # alpaca-lora's batch size
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 2000  # 2000 is alpaca-lora's number
WARMUP_SHARE = 0.05
# alpaca-lora's learning rate, and the hidden size of the model that it was found on.
REFERENCE_RATE, REFERENCE_WIDTH = 3e-4, 4096


@dataclass(frozen=True)
class Hyperparameters:
    """`batch_size` counts the chats of an optimizer step, `micro_batch_size` those computed at
    once; `learning_rate` is the highest one, reached after `warmup_steps`."""

    lora_r: int
    lora_alpha: int
    lora_dropout: float
    lora_target_modules: tuple[str, ...]
    num_epochs: float
    batch_size: int
    micro_batch_size: int
    learning_rate: float
    warmup_steps: int
    cutoff_len: int
    val_set_size: int
    train_on_inputs: bool
    group_by_length: bool
    early_stopping_patience: int
    seed: int

    @property
    def accumulation(self) -> int:
        """Micro-batches in an optimizer step."""
        return self.batch_size // self.micro_batch_size

    def to_json(self) -> dict[str, Any]:
        """The values as JSON types."""
        return {**asdict(self), "lora_target_modules": list(self.lora_target_modules)}


def held_out_size(requested: int | None, examples: int) -> int:
    """How many examples to hold out: by default one in ten.

    Raises:
        SettingsError: none would be left to learn.
    """
    if requested is None:
        default = min(MAX_HELD_OUT, max(1, int(examples * HELD_OUT_SHARE)))
        return default if examples > 1 else 0
    if requested >= examples:
        raise SettingsError(
            "val_set_size_too_large",
            held_out=requested,
            examples=examples,
            most=examples - 1,
        )
    return requested


def resolve_hyperparameters(
    flags: Mapping[str, Any], learned: int, held_out: int, width: int
) -> Hyperparameters:
    """The hyperparameters in `flags`, with defaults in place of None.

    Args:
        learned, held_out: numbers of examples.
        width: the base's hidden size; wider models need a lower learning rate.
    """
    epochs = flags["num_epochs"]
    batch_size = flags["batch_size"] or default_batch_size(learned * epochs)
    steps = max(1, round(epochs * math.ceil(learned / batch_size)))
    # The first of them has a rate of 0: a training of one step would learn nothing.
    warmup = min(math.ceil(steps * WARMUP_SHARE), steps - 1)
    resolved = {
        "batch_size": batch_size,
        "micro_batch_size": _largest_divisor(batch_size, flags["micro_batch_size"]),
        "learning_rate": flags["learning_rate"] or _default_rate(width),
        "warmup_steps": warmup if flags["warmup_steps"] is None else flags["warmup_steps"],
        "val_set_size": held_out,
    }
    return Hyperparameters(**{**flags, **resolved})


def default_batch_size(chats: float) -> int:
    """The largest power of two, up to MAX_BATCH_SIZE, that leaves MIN_STEPS steps.

    Args:
        chats: those of all epochs.
    """
    largest = max(1.0, min(chats / MIN_STEPS, MAX_BATCH_SIZE))
    return int(2 ** math.floor(math.log2(largest)))


def _default_rate(width: int) -> float:
    return round(REFERENCE_RATE * math.sqrt(REFERENCE_WIDTH / width), 5)


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` up to `limit`: all micro-batches of a step are equal."""
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)
