"""What finetune.py refuses and reports, in one sentence each."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from model.errors import ModelFolderError
from model.translations import verbatim
from tests.tiny_model import make_adapter, make_folder
from tests.training.conftest import Train, Trained
from training import finalize, trainer


def test_an_output_folder_with_other_files_is_refused_and_not_changed(
    train: Train, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained("--num_epochs", "1"), tmp_path / "mine")
    before = (tmp_path / "mine" / "adapter_model.safetensors").read_bytes()
    assert train("mine") == 2
    assert "already contains an adapter" in capsys.readouterr().err
    assert (tmp_path / "mine" / "adapter_model.safetensors").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear to me", encoding="utf-8")
    assert train("full") == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert train("file") == 2
    assert "is a file" in capsys.readouterr().err


def test_an_adapter_worse_than_its_base_is_reported(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finalize, "held_out_loss", lambda trainer: 99.0)
    assert train("mine", "--num_epochs", "1") == 0
    assert "The adapter is worse than the base on the held-out chats." in capsys.readouterr().err


def test_an_adapter_of_another_base_is_refused_before_the_base_is_loaded(
    train: Train, tmp_path: Path, tiny_adapters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_folder(tmp_path / "other", hidden_size=24, num_attention_heads=3)
    make_adapter(other, tmp_path / "foreign", seed=1, r=2, target_modules=["q_proj"])
    assert train("foreign", "--eval") == 1
    assert "cannot be used" in capsys.readouterr().err
    assert train("mine", "--resume_from_checkpoint", str(tmp_path / "foreign")) == 1
    assert "cannot be used" in capsys.readouterr().err
    shutil.copytree(tiny_adapters / "extended", tmp_path / "extended")
    assert train("extended", "--eval") == 1
    assert "has its own vocabulary" in capsys.readouterr().err


def test_an_adapter_that_changes_nothing_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--num_epochs", "1", "--learning_rate", "1e-6") == 1
    assert "steps the adapter changes none of 3 replies" in capsys.readouterr().err
    assert not (tmp_path / "mine" / "adapter_config.json").exists()


def test_weights_lost_while_saving_are_detected(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """alpaca-lora saved a file of 443 bytes, and an adapter without any effect."""
    for damage, message in (
        (
            lambda weights: {n: w * 0 if "lora_B" in n else w for n, w in weights.items()},
            "changes nothing",
        ),
        (lambda weights: {}, "broken"),
    ):
        trained = finalize.trained_weights
        monkeypatch.setattr(finalize, "trained_weights", lambda model: damage(trained(model)))  # noqa: B023
        assert train("mine", "--num_epochs", "1") == 1
        err = capsys.readouterr().err
        assert "The saved adapter is broken" in err
        assert message in err
        monkeypatch.undo()


def test_a_diverged_training_is_reported(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("mine", "--learning_rate", "1e30", "--warmup_steps", "0") == 1
    assert "The training has diverged" in capsys.readouterr().err


NO_MEMORY = RuntimeError(
    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
)
NO_MEMORY_TO_READ = ModelFolderError(verbatim("the weights are torn"))
NO_MEMORY_TO_READ.__cause__ = MemoryError()


@pytest.mark.parametrize("error", [NO_MEMORY, NO_MEMORY_TO_READ], ids=["training", "reading"])
def test_too_little_memory_is_reported(
    error: Exception,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where a file could not be read for want of it, which was called torn."""

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(trainer, "add_lora", fail)
    assert train("mine") == 1
    assert "There is not enough memory. Lower --micro_batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--data_path", "nowhere.jsonl"], 1, "There is no file nowhere.jsonl"),
        (["--base_model", "nowhere"], 1, "There is no model folder nowhere"),
        (["--prompt_template_name", "alpacca"], 2, "There is no prompt template 'alpacca'"),
        (["--val_set_size", "2000"], 2, "leaves none of 40 chats to train on"),
        (["--quantization", "8bit"], 2, "needs a CUDA GPU"),
        (["--cutoff_len", "4"], 1, "40 of 40 rows"),
        (["--nonsense"], 2, "Unknown flag --nonsense"),
    ],
)
def test_a_wrong_flag_is_reported_on_one_line(
    flags: list[str], status: int, message: str, train: Train, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert train("mine", *flags) == status
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert not (tmp_path / "mine").exists()
