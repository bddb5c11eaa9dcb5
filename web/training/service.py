"""What the Train tab asks for, free of Gradio: a look at the data, a training, its end."""

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
CUTOFF = 512  # tokens, as finetune.py has it by default


class TrainingRequestError(LinlyError):
    """What was asked for cannot be trained."""

    http_status = 400
    code = "bad_training"


@dataclass(frozen=True)
class TrainingForm:
    """What a visitor has filled in. None: what suits the data."""

    data: Path | None
    name: str
    template: str | None
    epochs: int
    rank: int
    learning_rate: float | None
    description: str
    train_on_inputs: bool = False


def environment(settings: Settings) -> dict[str, str]:
    """What the process that trains has to know of this program's settings."""
    told: Mapping[str, object] = {
        "LINLY_CACHE_DIR": settings.cache_dir,
        "LINLY_PROMPTS_DIR": settings.prompts_dir,
        # Threads that sleep while they wait for each other leave the cores to whoever chats; alone
        # on a machine, training is half as fast again with threads that spin.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    return {name: str(value) for name, value in told.items()}


@dataclass(frozen=True)
class TrainingService:
    """One training at a time, for all visitors who may."""

    settings: Settings
    manager: ModelManager
    trainings: TrainingRunner

    @property
    def job(self) -> Job | None:
        """The training that runs, else the last one."""
        return self.trainings.job

    @property
    def running(self) -> bool:
        """Whether a training is under way."""
        return self.trainings.running

    def look(self, data: Path, template: str | None, train_on_inputs: bool) -> Preview:
        """The data as they will be learned.

        Raises:
            LinlyError: the file cannot be used, or the model is still loading.
        """
        tokenizer = self.manager.tokenizer
        if tokenizer is None:
            raise NotReadyError("model_loading")
        written = self.manager.template_for(None, template)
        return preview(data, written, tokenizer, CUTOFF, train_on_inputs)

    def start(self, wanted: TrainingForm) -> None:
        """Begin to train.

        Raises:
            TrainingRequestError: something is missing or wrong.
            LinlyError: the name is taken, or a training is running.
        """
        if wanted.data is None or not wanted.data.is_file():  # uploads are cleared away in time
            raise TrainingRequestError("training_without_data")
        if not NAME.fullmatch(wanted.name):
            raise TrainingRequestError("training_bad_name")
        folder = self.settings.adapters_dir / wanted.name
        check_destination(folder)
        self.trainings.start(wanted.name, folder, flags(self.settings, wanted, folder))

    def cancel(self) -> None:
        """End the training after its step, with a checkpoint."""
        self.trainings.cancel()


def flags(settings: Settings, wanted: TrainingForm, folder: Path) -> list[str]:
    """What `finetune.py` is given."""
    told: dict[str, object] = {
        "base_model": settings.base_model,
        "data_path": wanted.data,
        "output_dir": folder,
        "prompt_template_name": wanted.template,
        "description": wanted.description.strip() or None,
        "num_epochs": wanted.epochs,
        "lora_r": wanted.rank,
        "lora_alpha": 2 * wanted.rank,
        "learning_rate": wanted.learning_rate,
        "train_on_inputs": wanted.train_on_inputs or None,
        "device": settings.device,
        "threads": settings.threads,
    }
    return [f"--{name}={value}" for name, value in told.items() if value is not None]


def name_for(file: Path) -> str:
    """A name for the adapter, from that of its data."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem).strip("-_")[:64]
