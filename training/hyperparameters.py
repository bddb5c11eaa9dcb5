"""What decides the result of a training besides its data, with defaults that follow the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from model.types import SettingsError

MIN_STEPS = 60  # fewer change the replies too little
MAX_BATCH = 128  # alpaca-lora's
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 2000  # the latter alpaca-lora's, too
WARM_UP_SHARE = 0.05
RATE, RATE_WIDTH = 3e-4, 4096  # alpaca-lora's rate, and the width of the model it was found on


@dataclass(frozen=True)
class Hyperparameters:
    """`batch_size` counts chats for each optimizer step, `micro_batch_size` those that are
    computed at once; `learning_rate` is the highest one reached, after `warmup_steps`."""

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
        """Micro-batches for each optimizer step."""
        return self.batch_size // self.micro_batch_size

    def to_json(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "lora_target_modules": list(self.lora_target_modules)}


def held_out_size(wanted: int | None, examples: int) -> int:
    """How many examples to hold out: by default one in ten.

    Raises:
        SettingsError: so many were wanted that none is left to learn.
    """
    if wanted is None:
        usual = min(MAX_HELD_OUT, max(1, int(examples * HELD_OUT_SHARE)))
        return usual if examples > 1 else 0
    if wanted >= examples:
        raise SettingsError(
            "val_set_size_too_large",
            held_out=wanted,
            examples=examples,
            most=examples - 1,
        )
    return wanted


def resolve(given: Mapping[str, Any], learned: int, held_out: int, width: int) -> Hyperparameters:
    """The recipe of `given` flags, None among them meaning what suits.

    Args:
        learned, held_out: numbers of examples.
        width: the base's hidden size; wider models want smaller steps.
    """
    epochs = given["num_epochs"]
    batch = given["batch_size"] or usual_batch(learned * epochs)
    steps = max(1, round(epochs * math.ceil(learned / batch)))
    rate = given["learning_rate"] or round(RATE * math.sqrt(RATE_WIDTH / width), 5)
    warmup = given["warmup_steps"]
    suiting = {
        "batch_size": batch,
        "micro_batch_size": _divisor(batch, given["micro_batch_size"]),
        "learning_rate": rate,
        "warmup_steps": math.ceil(steps * WARM_UP_SHARE) if warmup is None else warmup,
        "val_set_size": held_out,
    }
    return Hyperparameters(**{**given, **suiting})


def usual_batch(seen: float) -> int:
    """A power of two that leaves enough optimizer steps when `seen` chats pass in all."""
    most = max(1.0, min(seen / MIN_STEPS, MAX_BATCH))
    return int(2 ** math.floor(math.log2(most)))


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` up to `most`: all micro-batches of a step are alike."""
    return next(size for size in range(min(number, most), 0, -1) if number % size == 0)
