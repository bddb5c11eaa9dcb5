"""The Trainer of transformers as it is built here."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from model import cleanup
from training import trainer
from training.base_loader import ComputeConfig
from training.hyperparameters import resolve_hyperparameters
from training.options import read_training_options
from training.trainer import TrainerConfig, build_trainer


def test_a_run_at_wandb_is_finished_when_the_program_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """wandb itself does this when Python ends, which is left out here."""
    monkeypatch.setattr(cleanup, "_callbacks", {})
    monkeypatch.setitem(sys.modules, "transformers", Mock())
    monkeypatch.setattr(trainer, "_arguments", Mock())
    monkeypatch.setitem(sys.modules, "wandb", wandb := Mock())
    monkeypatch.setenv("WANDB_PROJECT", "")
    flags = read_training_options(["--data_path", "x"]).hyperparameters
    hyperparameters = resolve_hyperparameters(flags, learned=8, held_out=0, width=64)
    compute = ComputeConfig("cpu", "float32", "none", gradient_checkpointing=False)
    config = TrainerConfig([], [], hyperparameters, compute)
    build_trainer(Mock(), config, tmp_path, [], {"wandb_project": "p"})
    wandb.finish.assert_not_called()
    cleanup.run_callbacks()
    wandb.finish.assert_called_once_with()
