"""From trained weights to an adapter that was tried: saved, loaded again, asked, and described."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.doctor.check_adapter import check_adapter
from model.folders.adapter_files import CARD
from model.tensor_names import LINEAR_MODULES
from model.translations import LocalizedText
from model.types import FolderError, LinlyError
from training import evaluation, run_folder
from training.base_context import BaseContext
from training.events import Note, Report, Stage, TrainingEnded
from training.generation import Comparison, ask_both
from training.hyperparameters import Hyperparameters
from training.options import TrainingOptions
from training.report import Origin, TrainingResult, losses, write_results
from training.run_folder import NEW
from training.trainer import TrainerConfig, held_out_loss

PROBES = 3  # questions that must be answered otherwise than before
SAVED = "saved"  # peft's name for what was read back


class UselessError(LinlyError):
    """The adapter that was saved does nothing, or cannot be read."""

    code = "useless_adapter"


def finalize(
    options: TrainingOptions, ground: BaseContext, plan: TrainerConfig, digest: str, trainer: Any,
    base_loss: float | None, report: Report,
) -> TrainingEnded:  # fmt: skip
    """Save what `trainer` has trained, try it from the disk, and put it in its place.

    Raises:
        UselessError: it does not do anything; it is kept aside.
    """
    output = options.output_dir
    new = output / NEW
    report(Stage("saving"))
    save(trainer.model, new, ground.name)
    origin = Origin(
        ground.name, ground.facts().fingerprint, ground.template_name, options.description,
        Path(options.data_path).name, digest, plan.machine.dtype,
    )  # fmt: skip
    report(Stage("checking"))
    _check(new, ground, origin)
    model = trainer.model
    model.load_adapter(str(new), SAVED)
    model.set_adapter(SAVED)
    asked = ask_both(model, ground.speaker, (plan.held_out or plan.learned)[:PROBES])
    _refuse_unchanged(asked, trainer.state.global_step)
    adapter_loss = held_out_loss(trainer)
    if base_loss is not None and adapter_loss is not None and adapter_loss > base_loss:
        report(Note(LocalizedText("adapter_worse_than_base")))
    outcome = _outcome(options, plan, origin, trainer, base_loss, adapter_loss, asked)
    write_results(new, outcome)
    if options.evaluate:
        report(Stage("evaluating"))
        write_evaluation(new, ground, outcome, ask_both(model, ground.speaker, plan.held_out))
    run_folder.finish_folder(output)
    return TrainingEnded(
        str(output), LocalizedText("training_done", {"folder": output, "losses": losses(outcome)})
    )


def save(model: Any, folder: Path, base: str) -> None:
    """peft's files, the weights in float16: half the size, and far finer than what they add to."""
    # The base is named as it is called, not by a path of the machine that trained on it.
    model.peft_config["default"].base_model_name_or_path = base
    weights = {name: tensor.half() for name, tensor in _trained(model).items()}
    # The base's vocabulary is never changed here, so peft need not look for its configuration.
    model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
    for path in folder.iterdir():
        path.chmod(0o666 & ~_umask())  # safetensors writes for its owner alone


def _umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _trained(model: Any) -> dict[str, Any]:
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def _check(new: Path, ground: BaseContext, origin: Origin) -> None:
    """What the doctor says about the files."""
    card = {"template": origin.template, "fingerprint": list(origin.fingerprint)}
    (new / CARD).write_text(json.dumps(card), encoding="utf-8")
    try:
        found = check_adapter(new, ground.facts(), ground.templates)
        broken = next((one for one in found if one.level == "error"), None)
    except FolderError as error:
        raise UselessError("trained_adapter_broken", problem=error) from error
    if broken:
        raise UselessError("trained_adapter_broken", problem=broken)


def _refuse_unchanged(asked: Sequence[Comparison], steps: int) -> None:
    if all(one.base == one.adapter for one in asked):
        raise UselessError(
            "training_changed_nothing",
            replies=len(asked),
            steps=steps,
        )


def _outcome(
    options: TrainingOptions,
    plan: TrainerConfig,
    origin: Origin,
    trainer: Any,
    base_loss: float | None,
    adapter_loss: float | None,
    asked: Sequence[Comparison],
) -> TrainingResult:
    history = trainer.state.log_history
    measured = [(0, base_loss)] if base_loss is not None else []
    return TrainingResult(
        origin, _as_trained(plan.recipe, trainer.model), len(plan.learned), len(plan.held_out),
        trainer.state.global_step,
        base_loss, adapter_loss, curve(history, "loss"), [*measured, *curve(history, "eval_loss")],
        asked[0], options.command,
    )  # fmt: skip


def _as_trained(recipe: Hyperparameters, model: Any) -> Hyperparameters:
    """With the adapter's own sizes, which an adapter that is trained further has brought along."""
    config = model.peft_config["default"]
    modules = tuple(name for name in LINEAR_MODULES if name in config.target_modules)
    return replace(
        recipe, lora_r=config.r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
        lora_target_modules=modules,
    )  # fmt: skip


def curve(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) out of what a Trainer has logged."""
    return [(int(entry["step"]), float(entry[key])) for entry in history if key in entry]


def write_evaluation(
    folder: Path, ground: BaseContext, outcome: TrainingResult, asked: Sequence[Comparison]
) -> None:
    """The table of replies, beside the adapter."""
    name = folder.resolve().parent.name
    text = evaluation.report_of(name, ground.name, outcome.losses, asked)
    (folder / evaluation.FILE).write_text(text, encoding="utf-8")
