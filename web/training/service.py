"""The service behind the Train tab: previews data, starts and cancels a training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.config.settings import Settings
from model.errors import LinlyError, NotReadyError
from model.serving.manager import ModelManager
from training.job import Job, TrainingRunner
from training.preview import Preview, preview
from training.run_folder import check_destination

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
CUTOFF = 512  # tokens; the default of finetune.py


class TrainingRequestError(LinlyError):
    """The training cannot start with this form."""

    http_status = 400
    code = "bad_training"


@dataclass(frozen=True)
class TrainingForm:
    """The values of the Train tab's form. None means a default that suits the data."""

    data: Path | None
    name: str
    template: str | None
    epochs: int
    rank: int
    learning_rate: float | None
    description: str
    train_on_inputs: bool = False


def environment(settings: Settings) -> dict[str, str]:
    """Returns the environment variables for the training process."""
    variables: Mapping[str, object] = {
        "LINLY_CACHE_DIR": settings.cache_dir,
        "LINLY_PROMPTS_DIR": settings.prompts_dir,
        # Threads that sleep while they wait for each other leave the cores to chats. On a machine
        # without chats, threads that spin would train 1.5 times as fast.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return {name: str(value) for name, value in variables.items()}


@dataclass(frozen=True)
class TrainingService:
    """Runs one training at a time, for all visitors who may train."""

    settings: Settings
    manager: ModelManager
    trainings: TrainingRunner

    @property
    def job(self) -> Job | None:
        """The running training, else the last one."""
        return self.trainings.job

    @property
    def running(self) -> bool:
        """Whether a training is running."""
        return self.trainings.running

    def look(self, data: Path, template: str | None, train_on_inputs: bool) -> Preview:
        """Returns a preview of the examples that a training would learn.

        Raises:
            LinlyError: the file cannot be used, or the model is still loading.
        """
        backend = self.manager.backend
        if backend is None:
            raise NotReadyError("model_loading")
        prompt_template = self.manager.template_for(None, template)
        return preview(
            data, prompt_template, backend.tokenizer, backend.eos_ids, CUTOFF, train_on_inputs
        )

    def start(self, form: TrainingForm) -> None:
        """Starts a training.

        Raises:
            TrainingRequestError: something is missing or wrong.
            LinlyError: the name is taken, or a training is running.
        """
        if form.data is None or not form.data.is_file():  # old uploads are deleted
            raise TrainingRequestError("training_without_data")
        if not NAME.fullmatch(form.name):
            raise TrainingRequestError("training_bad_name")
        folder = self.settings.adapters_dir / form.name
        check_destination(folder)
        self.trainings.start(form.name, folder, flags(self.settings, form, folder))

    def cancel(self) -> None:
        """Ends the training after the current step, with a checkpoint."""
        self.trainings.cancel()


def flags(settings: Settings, form: TrainingForm, folder: Path) -> list[str]:
    """Returns the command-line flags for `finetune.py`."""
    values: dict[str, object] = {
        "base_model": settings.base_model,
        "data_path": form.data,
        "output_dir": folder,
        "prompt_template_name": form.template,
        "description": form.description.strip() or None,
        "num_epochs": form.epochs,
        "lora_r": form.rank,
        "lora_alpha": 2 * form.rank,
        "learning_rate": form.learning_rate,
        "train_on_inputs": form.train_on_inputs or None,
        "device": settings.device,
        "threads": settings.threads,
    }
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def name_for(file: Path) -> str:
    """Suggests a name for an adapter, made of its data file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-_")[:64]
