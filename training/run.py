"""A training from its flags to the adapter's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.folders.adapter_files import CONFIG
from model.translations import LocalizedText
from model.types import LinlyError, SettingsError
from training import run_folder
from training.base_context import BaseContext, resolve_base
from training.data_preparation import TrainingData, prepare_data
from training.events import HeldOut, Note, Report, Stage, TrainingEnded
from training.interrupt import StopRequest
from training.options import TrainingOptions
from training.run_folder import ENDED, STATE

if TYPE_CHECKING:
    from training.base_loader import ComputeConfig


class StoppedError(LinlyError):
    """Somebody asked for the end; a checkpoint is kept."""

    code = "interrupted"


def fine_tune(options: TrainingOptions, report: Report, stop: StopRequest) -> TrainingEnded:
    """Train, try what was trained, and write it into `options.output_dir`.

    Raises:
        LinlyError: it cannot be done, or was interrupted; in one sentence.
    """
    run_folder.check_destination(options.output_dir)
    report(Stage("data"))
    ground = resolve_base(options)
    material = prepare_data(options, ground, report)
    report(Stage("base"))
    from training.base_loader import find_machine, silence_libraries

    silence_libraries()
    machine = find_machine(
        options.device, options.quantization, options.dtype, options.gradient_checkpointing,
        options.threads,
    )  # fmt: skip
    identity = _identity(ground, material, machine)
    with run_folder.run_folder(options.output_dir, identity) as checkpoint:
        return _train(options, ground, material, machine, checkpoint, report, stop)


def _identity(
    ground: BaseContext, material: TrainingData, machine: ComputeConfig
) -> dict[str, Any]:
    """What makes two trainings the same: checkpoints of one fit the other."""
    from model.folders.fingerprint import fingerprint

    return {
        "base_model": ground.name,
        "data": material.data.digest,
        "template": ground.template_name,
        **material.recipe.to_json(),
        "dtype": machine.dtype,
        "quantization": machine.quantization,
        "base": fingerprint(ground.folder),
    }


def _train(
    options: TrainingOptions, ground: BaseContext, material: TrainingData, machine: ComputeConfig,
    checkpoint: Path | None, report: Report, stop: StopRequest,
) -> TrainingEnded:  # fmt: skip
    from training.base_loader import load_base
    from training.progress_callback import ProgressCallback
    from training.trainer import TrainerConfig, add_lora, build_trainer, held_out_loss, restore

    resume, start = _beginning(options, ground, checkpoint)
    plan = TrainerConfig(material.learned, material.held_out, material.recipe, machine)
    model = add_lora(load_base(ground.folder.path, machine), material.recipe, start)
    _refuse_stopped(stop)
    callback = ProgressCallback(report, stop, sum(len(example.ids) for example in plan.learned))
    trainer = build_trainer(model, plan, options.output_dir, [callback], options.wandb)
    report(Stage("measuring"))
    base_loss = held_out_loss(trainer, base=True)
    if base_loss is not None:
        report(HeldOut(0, base_loss))
    _refuse_stopped(stop)
    report(Stage("training"))
    if done := run_folder.ended(options.output_dir):
        report(Note(LocalizedText("training_was_complete")))
        restore(trainer, done)
    else:
        _to_the_end(trainer, resume, options.output_dir, report, stop)
    from training.finalize import finalize

    return finalize(options, ground, plan, material.data.digest, trainer, base_loss, report)


def _to_the_end(
    trainer: Any, resume: Path | None, folder: Path, report: Report, stop: StopRequest
) -> None:
    """Train, and note that it is done: what comes then can be interrupted, too.

    Raises:
        StoppedError: somebody asked for the end before.
    """
    from training.trainer import has_ended_early

    if resume is not None:
        run_folder.relocate_best_checkpoint(resume)
        report(Note(LocalizedText("training_resumed", {"checkpoint": resume})))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    state = trainer.state
    if stop.asked and state.global_step < state.max_steps and not has_ended_early(trainer):
        raise StoppedError(
            "training_interrupted",
            step=state.global_step,
            steps=state.max_steps,
            folder=folder,
        )
    state.save_to_json(str(folder / ENDED))


def _refuse_stopped(stop: StopRequest) -> None:
    if stop.asked:
        raise StoppedError("training_interrupted_early")


def _beginning(
    options: TrainingOptions, ground: BaseContext, newest: Path | None
) -> tuple[Path | None, Path | None]:
    """A checkpoint to go on from, or an adapter to begin with, or neither.

    Raises:
        SettingsError: --resume_from_checkpoint names something else.
        AdapterError: the adapter is another base's.
    """
    named = options.resume_from
    if named in (None, "last", "True"):
        return newest, None
    path = Path(str(named))
    if (path / STATE).is_file():
        return path, None
    if (path / CONFIG).is_file():
        ground.refuse_foreign(path)
        return (newest, None) if newest else (None, path)
    raise SettingsError(
        "resume_path_unusable",
        path=path,
    )
