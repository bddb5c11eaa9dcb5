"""Saves a trained adapter, loads it again, checks it, and describes it in its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.doctor.check_adapter import check_adapter
from model.errors import FolderError, LinlyError
from model.folders.adapter_files import CARD
from model.tensor_names import LINEAR_MODULES
from model.translations import LocalizedText
from training import run_folder
from training.base_context import BaseContext
from training.events import EventHandler, Note, Stage, TrainingEnded
from training.generation import compare_replies
from training.hyperparameters import Hyperparameters
from training.options import TrainingOptions
from training.report import (
    EVALUATION,
    Origin,
    TrainingResult,
    evaluation_table,
    losses_text,
    write_results,
)
from training.run_folder import STAGING
from training.trainer import TrainerConfig, held_out_loss

PROBES = 3  # questions; the adapter has to change the reply to one of them
RELOADED = "saved"  # peft's name for the adapter that is loaded again


class UselessAdapterError(LinlyError):
    """The saved adapter has no effect, or cannot be loaded."""

    code = "useless_adapter"


def finalize(
    options: TrainingOptions, base: BaseContext, config: TrainerConfig, data_digest: str,
    trainer: Any, base_loss: float | None, on_event: EventHandler,
) -> TrainingEnded:  # fmt: skip
    """Saves the adapter in a staging folder, checks it there, and moves it to its place.

    Raises:
        UselessAdapterError: it has no effect; it stays in the staging folder.
    """
    output = options.output_dir
    staging, model = output / STAGING, trainer.model
    on_event(Stage("saving"))
    save_adapter(model, staging, base.name)
    base.write_chat_format(staging)
    origin = Origin(
        base.name, base.base_info().fingerprint, base.card_template, options.description,
        Path(options.data_path).name, data_digest, config.compute.dtype, base.opens_thought,
    )  # fmt: skip
    on_event(Stage("checking"))
    _check_saved_adapter(staging, base, origin)
    model.load_adapter(str(staging), RELOADED)
    model.set_adapter(RELOADED)
    result = _test_adapter(options, base, config, origin, trainer, base_loss)
    if result.losses and result.losses[1] > result.losses[0]:
        on_event(Note(LocalizedText("adapter_worse_than_base")))
    write_results(staging, result)
    if options.evaluate:
        on_event(Stage("evaluating"))
        comparisons = compare_replies(model, base.generator, config.held_out)
        table = evaluation_table(output.resolve().name, base.name, result.losses, comparisons)
        (staging / EVALUATION).write_text(table, encoding="utf-8")
    run_folder.publish_adapter(output)
    text = LocalizedText("training_done", {"folder": output, "losses": losses_text(result)})
    return TrainingEnded(str(output), text)


def save_adapter(model: Any, folder: Path, base_name: str) -> None:
    """Writes peft's files, with weights in float16: half the size, and precise enough."""
    # The base's name instead of a path on this machine.
    model.peft_config["default"].base_model_name_or_path = base_name
    weights = {name: tensor.half() for name, tensor in trained_weights(model).items()}
    # The base's vocabulary is never changed here, so peft need not look for its configuration.
    model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
    for path in folder.iterdir():
        path.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read


def _umask() -> int:
    """It can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def trained_weights(model: Any) -> dict[str, Any]:
    """The adapter's weights by name."""
    return {name: p.data for name, p in model.named_parameters() if p.requires_grad}


def _check_saved_adapter(folder: Path, base: BaseContext, origin: Origin) -> None:
    """Runs `python -m model check` on the saved files."""
    card = {"template": origin.template, "fingerprint": list(origin.fingerprint)}
    (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
    try:
        findings = check_adapter(folder, base.base_info(), base.templates)
        problem = next((finding for finding in findings if finding.level == "error"), None)
    except FolderError as error:
        raise UselessAdapterError("trained_adapter_broken", problem=error) from error
    if problem:
        raise UselessAdapterError("trained_adapter_broken", problem=problem)


def _test_adapter(
    options: TrainingOptions,
    base: BaseContext,
    config: TrainerConfig,
    origin: Origin,
    trainer: Any,
    base_loss: float | None,
) -> TrainingResult:
    """Compares replies and losses of the loaded adapter with those of its base.

    Raises:
        UselessAdapterError: it changes none of the replies.
    """
    probes = (config.held_out or config.learned)[:PROBES]
    comparisons = compare_replies(trainer.model, base.generator, probes)
    steps = trainer.state.global_step
    if all(each.base == each.adapter for each in comparisons):
        raise UselessAdapterError("training_changed_nothing", replies=len(comparisons), steps=steps)
    adapter_loss = held_out_loss(trainer)  # it adds an entry to the log
    log = trainer.state.log_history
    measured = [(0, base_loss)] if base_loss is not None else []
    return TrainingResult(
        origin=origin,
        hyperparameters=_with_adapter_shape(config.hyperparameters, trainer.model),
        learned=len(config.learned),
        held_out=len(config.held_out),
        steps=steps,
        base_loss=base_loss,
        adapter_loss=adapter_loss,
        history=logged_values(log, "loss"),
        measured=[*measured, *logged_values(log, "eval_loss")],
        example=comparisons[0],
        command=options.command,
    )


def _with_adapter_shape(hyperparameters: Hyperparameters, model: Any) -> Hyperparameters:
    """With the model's own LoRA settings: an adapter that is trained further keeps its shape."""
    config = model.peft_config["default"]
    modules = tuple(name for name in LINEAR_MODULES if name in config.target_modules)
    return replace(
        hyperparameters, lora_r=config.r, lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout, lora_target_modules=modules,
    )  # fmt: skip


def logged_values(log: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    """(step, value) of each entry with `key` in a Trainer's log."""
    return [(int(entry["step"]), float(entry[key])) for entry in log if key in entry]
