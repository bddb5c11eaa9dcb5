"""Prepares the data of a training run: reads, encodes and splits it, and fills in defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.errors import SettingsError
from model.translations import LocalizedText
from training.base_context import BaseContext
from training.dataset import (
    Dataset,
    check_bad_rows,
    first_reasons,
    read_data,
    resolve_data_path,
)
from training.encoding import Encoder, Example, data_notes, fit_template, split_held_out
from training.events import EventHandler, Note
from training.hyperparameters import Hyperparameters, held_out_size, resolve_hyperparameters
from training.options import TrainingOptions
from training.parsing import BadRow


@dataclass(frozen=True)
class TrainingData:
    """The data as examples to train on and examples held out, with the hyperparameters.

    `base` has the template that fits the data.
    """

    base: BaseContext
    dataset: Dataset
    learned: list[Example]
    held_out: list[Example]
    hyperparameters: Hyperparameters


def prepare_data(
    options: TrainingOptions, base: BaseContext, on_event: EventHandler, *,
    all_held_out: bool = False, for_adapter: bool = False,
) -> TrainingData:  # fmt: skip
    """Reads, encodes and splits the data; with `all_held_out`, none of it is trained on.

    With `for_adapter` the template is one that an adapter was trained with; else it is fitted to
    the data.

    Raises:
        DataError, SettingsError
    """
    dataset = read_data(resolve_data_path(options.data_path), base.template)
    flags = options.hyperparameters
    template = base.template
    if not for_adapter:
        template = fit_template(template, base.tokenizer, dataset.chats)
    base = replace(base, opens_thought=template.opens_thought)
    encoder = Encoder(
        template, base.tokenizer, base.end_ids, flags["cutoff_len"], flags["train_on_inputs"]
    )
    examples, bad = encoder.encode(dataset.chats)
    bad = sorted([*dataset.bad, *bad], key=lambda row: row.place)
    check_bad_rows(bad, len(examples) + len(bad), options.data_path)
    for text in _notes(examples, bad, flags["cutoff_len"]):
        on_event(Note(text))
    for text in data_notes(dataset, examples, template):
        on_event(Note(text))
    size = len(examples)
    if not all_held_out:
        size = held_out_size(flags["val_set_size"], len(examples))
    learned, held_out = split_held_out(examples, size, flags["seed"])
    if not learned and not all_held_out:
        raise SettingsError("training_chats_identical")
    width = int(base.folder.config["hidden_size"])
    hyperparameters = resolve_hyperparameters(flags, len(learned), len(held_out), width)
    counts = {"learned": len(learned), "held_out": len(held_out)}
    code = "chats_to_measure" if all_held_out else "chats_to_learn"
    on_event(Note(LocalizedText(code, counts)))
    return TrainingData(base, dataset, learned, held_out, hyperparameters)


def _notes(examples: Sequence[Example], bad: Sequence[BadRow], cutoff: int) -> list[LocalizedText]:
    """Notes for the user about rows left out, truncated chats and duplicates."""
    notes = []
    if bad:
        facts = {"count": len(bad), "reasons": first_reasons(bad)}
        notes.append(LocalizedText("rows_left_out", facts))
    if truncated := sum(example.truncated for example in examples):
        notes.append(LocalizedText("chats_cut", {"count": truncated, "cutoff": cutoff}))
    if repeated := len(examples) - len({example.ids for example in examples}):
        notes.append(LocalizedText("chats_repeated", {"count": repeated}))
    return notes
