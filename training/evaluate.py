"""`--eval` on an adapter that is finished: base and adapter side by side, nothing is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.folders.adapter_files import read_card
from model.translations import LocalizedText
from training import evaluation
from training.base_context import BaseContext, resolve_base
from training.base_loader import find_machine, load_base, silence_libraries
from training.data_preparation import TrainingData, prepare_data
from training.events import Note, Report, Stage, TrainingEnded
from training.generation import ask_both
from training.hub_data import local_data
from training.options import TrainingOptions
from training.trainer import TrainerConfig, build_trainer, held_out_loss


def evaluate(options: TrainingOptions, report: Report) -> TrainingEnded:
    """Measure the adapter in `options.output_dir` on what was held out of its own data, or on the
    whole of other data, and write it beside the adapter.

    Raises:
        LinlyError: the adapter, the base or the data cannot be used.
    """
    silence_libraries()
    from peft import PeftModel

    adapter = options.output_dir
    card = read_card(adapter)
    report(Stage("data"))
    ground = resolve_base(replace(options, template=options.template or card.get("template")))
    material = _material(options, ground, card.get("training") or {}, report)
    ground.refuse_foreign(adapter)
    report(Stage("base"))
    machine = find_machine(
        options.device, options.quantization, options.dtype, options.gradient_checkpointing,
        options.threads,
    )  # fmt: skip
    model = PeftModel.from_pretrained(load_base(ground.folder.path, machine), adapter)
    report(Stage("evaluating"))
    plan = TrainerConfig(material.held_out, material.held_out, material.recipe, machine)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = build_trainer(model, plan, Path(scratch), [], {})
        before, after = held_out_loss(trainer, base=True), held_out_loss(trainer)
    losses = None if before is None or after is None else (before, after)
    asked = ask_both(model, ground.speaker, material.held_out)
    text = evaluation.report_of(adapter.resolve().name, ground.name, losses, asked)
    return TrainingEnded(str(adapter), _written(adapter / evaluation.FILE, text), text)


def _written(file: Path, text: str) -> LocalizedText:
    """Where the table lies now; it is told in any case."""
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        return LocalizedText(
            "evaluation_unwritten", {"file": file, "reason": error.strerror or error}
        )
    return LocalizedText("evaluation_written", {"file": file})


def _material(
    options: TrainingOptions, ground: BaseContext, training: Mapping[str, Any], report: Report
) -> TrainingData:
    """What was held out when the adapter was trained on this very file; else all there is."""
    from training.dataset import read_data

    used = dict(training.get("hyperparameters") or {})
    same = read_data(local_data(options.data_path), ground.template).digest == (
        training.get("data") or {}
    ).get("sha256")
    names = options.hyperparameters.keys() & used.keys()
    kept = {name: used[name] for name in names} if same else {}
    given = {**options.hyperparameters, **kept}
    if same and used.get("val_set_size"):
        return prepare_data(replace(options, hyperparameters=given), ground, report)
    if same:
        report(Note(LocalizedText("evaluating_learned")))
    else:
        report(Note(LocalizedText("evaluating_other_data")))
    return prepare_data(replace(options, hyperparameters=given), ground, report, all_held_out=True)
