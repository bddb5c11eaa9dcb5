"""Evaluates a finished adapter beside its base (`--eval`), without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.cleanup import temporary_folder
from model.folders.adapter_files import read_card
from model.translations import LocalizedText
from training.base_context import BaseContext, resolve_base
from training.base_loader import load_base, resolve_compute_config, silence_libraries
from training.data_preparation import TrainingData, prepare_data
from training.dataset import read_data, resolve_data_path
from training.events import EventHandler, Note, Stage, TrainingEnded
from training.generation import compare_replies
from training.options import TrainingOptions
from training.report import EVALUATION, evaluation_table
from training.trainer import TrainerConfig, build_trainer, held_out_loss


def evaluate(options: TrainingOptions, on_event: EventHandler) -> TrainingEnded:
    """Evaluates the adapter in `options.output_dir` and writes the table into its folder.

    On the data of its own training, only the held-out chats are used; on other data, all of them.

    Raises:
        LinlyError: the adapter, the base or the data cannot be used.
    """
    silence_libraries()
    from peft import PeftModel

    adapter = options.output_dir
    card = read_card(adapter)
    on_event(Stage("data"))
    base = resolve_base(options, adapter)
    data = _evaluation_data(options, base, card.get("training") or {}, on_event)
    base.check_adapter_fits(adapter)
    on_event(Stage("base"))
    compute = resolve_compute_config(
        options.device, options.quantization, options.dtype, options.gradient_checkpointing,
        options.threads,
    )  # fmt: skip
    model = PeftModel.from_pretrained(load_base(base.folder.path, compute), adapter)
    on_event(Stage("evaluating"))
    config = TrainerConfig(data.held_out, data.held_out, data.hyperparameters, compute)
    with temporary_folder() as scratch:
        trainer = build_trainer(model, config, scratch, [], {})
        base_loss, adapter_loss = held_out_loss(trainer, base=True), held_out_loss(trainer)
    losses = None if base_loss is None or adapter_loss is None else (base_loss, adapter_loss)
    comparisons = compare_replies(model, base.generator, data.held_out)
    table = evaluation_table(adapter.resolve().name, base.name, losses, comparisons)
    return TrainingEnded(str(adapter), _write_table(adapter / EVALUATION, table), table)


def _write_table(file: Path, table: str) -> LocalizedText:
    """Writes the table, which is printed in any case; returns a text about the file."""
    try:
        file.write_text(table, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        return LocalizedText("evaluation_unwritten", {"file": file, "reason": reason})
    return LocalizedText("evaluation_written", {"file": file})


def _evaluation_data(
    options: TrainingOptions, base: BaseContext, training: Mapping[str, Any],
    on_event: EventHandler,
) -> TrainingData:  # fmt: skip
    """The chats held out in the adapter's training if the data file is the same, else all chats.

    Args:
        training: the adapter's card about its training.
    """
    digest = (training.get("data") or {}).get("sha256")
    same_data = read_data(resolve_data_path(options.data_path), base.template).digest == digest
    flags = options.hyperparameters
    trained_with = dict(training.get("hyperparameters") or {})
    if same_data:
        flags = {name: trained_with.get(name, value) for name, value in flags.items()}
    options = replace(options, hyperparameters=flags)
    if same_data and trained_with.get("val_set_size"):
        return prepare_data(options, base, on_event, for_adapter=True)
    code = "evaluating_learned" if same_data else "evaluating_other_data"
    on_event(Note(LocalizedText(code)))
    return prepare_data(options, base, on_event, all_held_out=True, for_adapter=True)
