"""The data as a training takes it: read, encoded, split, and the recipe that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model.translations import LocalizedText
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
        raise SettingsError("training_chats_identical")
    width = int(ground.folder.config["hidden_size"])
    recipe = resolve(given, len(learned), len(held_out), width)
    counts = {"learned": len(learned), "held_out": len(held_out)}
    code = "chats_to_measure" if all_held_out else "chats_to_learn"
    report(Note(LocalizedText(code, counts)))
    return TrainingData(data, learned, held_out, recipe)


def _notes(examples: Sequence[Example], bad: Sequence[BadRow], cutoff: int) -> list[LocalizedText]:
    """What is to be known about the data."""
    notes = []
    if bad:
        facts = {"count": len(bad), "reasons": first_reasons(bad)}
        notes.append(LocalizedText("rows_left_out", facts))
    if cut := sum(example.cut for example in examples):
        notes.append(LocalizedText("chats_cut", {"count": cut, "cutoff": cutoff}))
    if repeated := len(examples) - len({example.ids for example in examples}):
        notes.append(LocalizedText("chats_repeated", {"count": repeated}))
    return notes
