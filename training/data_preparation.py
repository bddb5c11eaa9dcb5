"""The data as a training takes it: read, encoded, split, and the recipe that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.types import SettingsError
from training.base_context import BaseContext
from training.dataset import Dataset, first_reasons, read_data, refuse_bad
from training.encoding import Encoder, Example, split
from training.events import Note, Report
from training.hub_data import local_data
from training.hyperparameters import Hyperparameters, held_out_size, resolve
from training.options import TrainingOptions
from training.parsing import BadRow


@dataclass(frozen=True)
class TrainingData:
    """The data as examples: to learn, and to measure with."""

    data: Dataset
    learned: list[Example]
    held_out: list[Example]
    recipe: Hyperparameters


def prepare_data(
    options: TrainingOptions, ground: BaseContext, report: Report, *, all_held_out: bool = False
) -> TrainingData:
    """The data, encoded and split; with `all_held_out` nothing of it is learned.

    Raises:
        DataError, SettingsError
    """
    path = local_data(options.data_path)
    data = read_data(path, ground.template)
    given = options.hyperparameters
    encoder = Encoder(
        ground.template, ground.tokenizer, given["cutoff_len"], given["train_on_inputs"]
    )
    examples, bad = encoder.encode(data.chats)
    bad = sorted([*data.bad, *bad], key=lambda row: row.line)
    refuse_bad(bad, len(examples) + len(bad), options.data_path)
    for text in _notes(examples, bad, given["cutoff_len"]):
        report(Note(text))
    size = len(examples)
    if not all_held_out:
        size = held_out_size(given["val_set_size"], len(examples))
    learned, held_out = split(examples, size, given["seed"])
    if not learned and not all_held_out:
        raise SettingsError(
            "All chats are the same: none is left to learn", "Pass --val_set_size 0."
        )
    width = int(ground.folder.config["hidden_size"])
    recipe = resolve(given, len(learned), len(held_out), width)
    counted = f"{len(learned)} chats to learn, {len(held_out)} held out to measure with"
    report(Note(f"{len(held_out)} chats to measure with" if all_held_out else counted))
    return TrainingData(data, learned, held_out, recipe)


def _notes(examples: Sequence[Example], bad: Sequence[BadRow], cutoff: int) -> list[str]:
    """What is to be known about the data."""
    notes = []
    if bad:
        plural = "rows are" if len(bad) > 1 else "row is"
        notes.append(f"{len(bad)} {plural} left out: {first_reasons(bad)}")
    if cut := sum(example.cut for example in examples):
        plural = "chats are" if cut > 1 else "chat is"
        notes.append(f"{cut} {plural} longer than {cutoff} tokens and lost the end (--cutoff_len)")
    if repeated := len(examples) - len({example.ids for example in examples}):
        notes.append(f"{repeated} chats stand in the file more than once")
    return notes
