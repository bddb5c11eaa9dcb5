"""A training from its flags to the adapter's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.folders.adapter_files import CONFIG
from model.types import LinlyError, SettingsError
from training import run_folder
from training.events import Ended, HeldOut, Note, Report, Stage
from training.ground import Ground, find_ground
from training.material import Material, read_material
from training.options import Options
from training.run_folder import STATE
from training.stopping import Stop

if TYPE_CHECKING:
    from training.base import Machine


class StoppedError(LinlyError):
    """Somebody asked for the end; a checkpoint is kept."""

    code = "interrupted"


def fine_tune(options: Options, report: Report, stop: Stop) -> Ended:
    """Train, try what was trained, and write it into `options.output_dir`.

    Raises:
        LinlyError: it cannot be done, or was interrupted; in one sentence.
    """
    run_folder.refuse_taken(options.output_dir)
    report(Stage("data"))
    ground = find_ground(options)
    material = read_material(options, ground, report)
    report(Stage("base"))
    from training.base import find_machine, quiet

    quiet()
    machine = find_machine(
        options.device, options.quantization, options.dtype, options.gradient_checkpointing,
        options.threads,
    )  # fmt: skip
    identity = _identity(ground, material, machine)
    with run_folder.run_folder(options.output_dir, identity) as checkpoint:
        return _train(options, ground, material, machine, checkpoint, report, stop)


def _identity(ground: Ground, material: Material, machine: Machine) -> dict[str, Any]:
    """What makes two trainings the same: checkpoints of one fit the other."""
    from model.folders.fingerprint import fingerprint

    return {
        "base_model": ground.name,
        "data": material.data.digest,
        "template": ground.template_name,
        **material.recipe.told(),
        "dtype": machine.dtype,
        "quantization": machine.quantization,
        "base": fingerprint(ground.folder),
    }


def _train(
    options: Options, ground: Ground, material: Material, machine: Machine,
    checkpoint: Path | None, report: Report, stop: Stop,
) -> Ended:  # fmt: skip
    from training.base import load_base
    from training.callback import Telling
    from training.trainer import Plan, add_lora, build_trainer, held_out_loss

    resume, start = _beginning(options, checkpoint)
    plan = Plan(material.learned, material.held_out, material.recipe, machine)
    model = add_lora(load_base(ground.folder.path, machine), material.recipe, start)
    callback = Telling(report, stop, sum(len(example.ids) for example in plan.learned))
    trainer = build_trainer(model, plan, options.output_dir, [callback], options.wandb)
    report(Stage("measuring"))
    base_loss = held_out_loss(trainer, base=True)
    if base_loss is not None:
        report(HeldOut(0, base_loss))
    report(Stage("training"))
    if resume is not None:
        report(Note(f"Going on from {resume}"))
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    state = trainer.state
    if stop.asked and state.global_step < state.max_steps:
        raise StoppedError(
            f"Interrupted after step {state.global_step} of {state.max_steps}",
            f"A checkpoint is kept in {options.output_dir}: the same command goes on from there.",
        )
    from training.finishing import finish

    return finish(options, ground, plan, material.data.digest, trainer, base_loss, report)


def _beginning(options: Options, newest: Path | None) -> tuple[Path | None, Path | None]:
    """A checkpoint to go on from, or an adapter to begin with, or neither.

    Raises:
        SettingsError: --resume_from_checkpoint names something else.
    """
    named = options.resume_from
    if named in (None, "last", "True"):
        return newest, None
    path = Path(str(named))
    if (path / STATE).is_file():
        return path, None
    if (path / CONFIG).is_file():
        return (newest, None) if newest else (None, path)
    raise SettingsError(
        f"--resume_from_checkpoint: {path} is neither a checkpoint nor an adapter",
        "Leave it out: the same command goes on by itself.",
    )
