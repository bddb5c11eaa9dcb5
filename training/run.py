"""Runs a training from its flags to the adapter's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import LinlyError, SettingsError
from model.folders.adapter_config import CONFIG
from model.translations import LocalizedText
from training import run_folder
from training.base_context import BaseContext, resolve_base
from training.data_preparation import TrainingData, prepare_data
from training.events import EventHandler, HeldOut, Note, Stage, TrainingEnded
from training.interrupt import StopRequest
from training.options import TrainingOptions
from training.run_folder import ENDED_STATE, STATE

if TYPE_CHECKING:
    from training.base_loader import ComputeConfig

NEWEST = ("last", "True")  # values of --resume_from_checkpoint for the newest checkpoint


class StoppedError(LinlyError):
    """The user stopped the training; its checkpoint stays."""

    code = "interrupted"


def fine_tune(options: TrainingOptions, on_event: EventHandler, stop: StopRequest) -> TrainingEnded:
    """Trains an adapter, checks it, and writes it into `options.output_dir`.

    Raises:
        LinlyError: the training cannot be done, or was interrupted.
    """
    run_folder.check_destination(options.output_dir)
    on_event(Stage("data"))
    data = prepare_data(options, resolve_base(options, _adapter_to_continue(options)), on_event)
    base = data.base
    on_event(Stage("base"))
    from training.base_loader import resolve_compute_config, silence_libraries

    silence_libraries()
    compute = resolve_compute_config(
        options.device, options.quantization, options.dtype, options.gradient_checkpointing,
        options.threads,
    )  # fmt: skip
    settings = _run_settings(base, data, compute)
    with run_folder.run_folder(options.output_dir, settings) as checkpoint:
        return _train(options, base, data, compute, checkpoint, on_event, stop)


def _run_settings(base: BaseContext, data: TrainingData, compute: ComputeConfig) -> dict[str, Any]:
    """What a checkpoint depends on: a run with the same settings can continue from it."""
    from model.folders.fingerprint import fingerprint

    return {
        "base_model": base.name,
        "data": data.dataset.digest,
        "template": base.template_name,
        "opens_thought": base.opens_thought,
        **data.hyperparameters.to_json(),
        "dtype": compute.dtype,
        "quantization": compute.quantization,
        "base": fingerprint(base.folder),
    }


def _train(
    options: TrainingOptions, base: BaseContext, data: TrainingData, compute: ComputeConfig,
    checkpoint: Path | None, on_event: EventHandler, stop: StopRequest,
) -> TrainingEnded:  # fmt: skip
    from training.base_loader import load_base
    from training.finalize import finalize
    from training.progress_callback import ProgressCallback
    from training.trainer import TrainerConfig, add_lora, build_trainer, held_out_loss, restore

    resume_from, start_from = _starting_point(options, base, checkpoint)
    config = TrainerConfig(data.learned, data.held_out, data.hyperparameters, compute)
    model = add_lora(load_base(base.folder.path, compute), data.hyperparameters, start_from)
    _check_not_stopped(stop)
    tokens = sum(len(example.ids) for example in config.learned)
    callback = ProgressCallback(on_event, stop, tokens)
    trainer = build_trainer(model, config, options.output_dir, [callback], options.wandb)
    on_event(Stage("measuring"))
    base_loss = held_out_loss(trainer, base=True)
    if base_loss is not None:
        on_event(HeldOut(0, base_loss))
    _check_not_stopped(stop)
    on_event(Stage("training"))
    if ended_state := run_folder.ended_state(options.output_dir):
        on_event(Note(LocalizedText("training_was_complete")))
        restore(trainer, ended_state)
    else:
        _train_to_end(trainer, resume_from, options.output_dir, on_event, stop)
    return finalize(options, base, config, data.dataset.digest, trainer, base_loss, on_event)


def _train_to_end(
    trainer: Any, resume_from: Path | None, folder: Path, on_event: EventHandler, stop: StopRequest
) -> None:
    """Trains, and saves the final state: the user can still interrupt the stages after it.

    Raises:
        StoppedError: the user asked to stop before the end.
    """
    from training.trainer import has_ended_early

    if resume_from is not None:
        run_folder.relocate_best_checkpoint(resume_from)
        on_event(Note(LocalizedText("training_resumed", {"checkpoint": resume_from})))
    trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    state = trainer.state
    if stop.requested and state.global_step < state.max_steps and not has_ended_early(trainer):
        raise StoppedError(
            "training_interrupted",
            step=state.global_step,
            steps=state.max_steps,
            folder=folder,
        )
    state.save_to_json(str(folder / ENDED_STATE))


def _check_not_stopped(stop: StopRequest) -> None:
    if stop.requested:
        raise StoppedError("training_interrupted_early")


def _starting_point(
    options: TrainingOptions, base: BaseContext, newest: Path | None
) -> tuple[Path | None, Path | None]:
    """A checkpoint to continue from, or an adapter to start with, or neither.

    Raises:
        SettingsError: --resume_from_checkpoint names something else.
        AdapterError: the adapter belongs to another base.
    """
    name = options.resume_from
    if name in (None, *NEWEST):
        return newest, None
    adapter = _adapter_to_continue(options)
    if adapter is None:
        return Path(str(name)), None
    base.check_adapter_fits(adapter)
    return (newest, None) if newest else (None, adapter)


def _adapter_to_continue(options: TrainingOptions) -> Path | None:
    """The folder of a finished adapter that --resume_from_checkpoint names, if it does.

    Raises:
        SettingsError: it names neither an adapter nor a checkpoint.
    """
    if options.resume_from in (None, *NEWEST):
        return None
    path = Path(str(options.resume_from))
    if (path / STATE).is_file():
        return None
    if (path / CONFIG).is_file():
        return path
    raise SettingsError("resume_path_unusable", path=path)
