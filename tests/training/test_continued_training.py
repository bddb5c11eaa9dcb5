"""finetune.py after an interruption: checkpoints, and the same command again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from model.config.settings import CHECKOUT
from tests.training.conftest import FAST, Train, Trained, read_json, same_weights
from training import finalize, run_folder
from training.events import Event, Step
from training.interrupt import StopRequest, stoppable
from training.progress_bar import ProgressBar


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presses Ctrl-C after that step."""

    def handle(_: ProgressBar, event: Event) -> None:
        if isinstance(event, Step) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "__call__", handle)


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_continues(
    train: Train, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The result has the same weights as without the interruption."""
    flags = ("--num_epochs", "4", "--early_stopping_patience", "1")
    uninterrupted = trained(*flags)
    interrupt_after(13, monkeypatch)
    assert train("mine", *flags) == 1
    err = capsys.readouterr().err
    assert "Interrupted after step 14 of" in err or "Interrupted after step 13 of" in err
    assert "Run the same command to continue from the checkpoint in" in err
    monkeypatch.undo()
    assert not (tmp_path / "mine" / "adapter_config.json").exists()
    assert train("mine", *flags, "--batch_size", "3") == 2
    assert "contains an unfinished training with other settings (batch_size: 2, now 3)" in (
        capsys.readouterr().err
    )
    assert train("mine", *flags) == 0
    assert "Continuing from" in capsys.readouterr().err
    assert same_weights(tmp_path / "mine", uninterrupted)
    figures = read_json(tmp_path / "mine" / "training.json")
    assert figures == read_json(uninterrupted / "training.json")


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_result(
    tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    def command(name: str) -> list[str]:
        return [sys.executable, str(CHECKOUT / "finetune.py"), "--base_model", str(tiny_folder),
                "--data_path", str(data), "--output_dir", str(tmp_path / name), *FAST,
                "--num_epochs", "12", "--early_stopping_patience", "0",
                "--progress", "json"]  # fmt: skip

    with subprocess.Popen(command("mine"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "Step" and event["step"] == 25:
                process.kill()
                break
    assert process.wait() == -signal.SIGKILL
    checkpoints = run_folder.checkpoints(tmp_path / "mine")
    assert checkpoints
    incomplete = tmp_path / "mine" / "checkpoint-100000"  # as if killed while it was saved
    shutil.copytree(checkpoints[-1], incomplete)
    (incomplete / "trainer_state.json").unlink()
    for name in ("mine", "uninterrupted"):
        done = subprocess.run(command(name), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert json.loads(done.stdout.splitlines()[-1])["event"] == "Ended"
    assert same_weights(tmp_path / "mine", tmp_path / "uninterrupted")
    assert not list((tmp_path / "mine").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_training_interrupted_after_its_last_step_is_not_trained_on(
    train: Train, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Here early stopping ended it: the same command only saves and checks the adapter."""
    flags = ("--num_epochs", "30", "--early_stopping_patience", "1")
    uninterrupted = trained(*flags)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finalize, "save_adapter", interrupt)
    assert train("mine", *flags) == 1
    assert "Interrupted. Run the same command to continue" in capsys.readouterr().err
    monkeypatch.undo()
    assert train("mine", *flags) == 0
    assert "The training was already complete" in capsys.readouterr().err
    assert same_weights(tmp_path / "mine", uninterrupted)
    figures = read_json(tmp_path / "mine" / "training.json")
    assert figures == read_json(uninterrupted / "training.json")
    assert not list((tmp_path / "mine").glob("*checkpoint*"))
    assert not list((tmp_path / "mine").glob("*ed_training.json"))


@pytest.mark.slow
def test_a_training_in_a_moved_folder_finds_its_best_checkpoint(
    train: Train, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint has the path of the best one, which has changed."""
    flags = ("--num_epochs", "4", "--learning_rate", "0.5", "--early_stopping_patience", "0")
    uninterrupted = trained(*flags)
    interrupt_after(40, monkeypatch)
    assert train("first", *flags) == 1
    monkeypatch.undo()
    newest = run_folder.checkpoints(tmp_path / "first")[-1]
    best = Path(read_json(newest / "trainer_state.json")["best_model_checkpoint"])
    assert best.name != newest.name
    (tmp_path / "first").rename(tmp_path / "mine")
    assert train("mine", *flags) == 0
    assert same_weights(tmp_path / "mine", uninterrupted)


def test_a_training_whose_best_checkpoint_is_missing_is_refused(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flags = ("--num_epochs", "4", "--learning_rate", "0.5", "--early_stopping_patience", "0")
    interrupt_after(40, monkeypatch)
    assert train("mine", *flags) == 1
    monkeypatch.undo()
    shutil.rmtree(run_folder.checkpoints(tmp_path / "mine")[0])
    capsys.readouterr()
    assert train("mine", *flags) == 2
    assert "the best checkpoint of an unfinished training, is missing" in capsys.readouterr().err


def test_files_of_a_killed_training_beside_the_adapter_are_removed(
    train: Train, trained: Trained, tmp_path: Path
) -> None:
    shutil.copytree(trained("--num_epochs", "1"), tmp_path / "mine")
    (tmp_path / "mine" / "checkpoint-5").mkdir()
    (tmp_path / "mine" / run_folder.SETTINGS).write_text("{}", encoding="utf-8")
    assert train("mine") == 2
    assert not (tmp_path / "mine" / "checkpoint-5").exists()
    assert (tmp_path / "mine" / "adapter_config.json").exists()


def test_a_full_disk_is_reported_with_the_checkpoint_that_is_kept(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    saves: list[Any] = []
    save = torch.save

    def failing_save(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        saves.append(path)
        if len(saves) > 4:  # in the middle of the second checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        save(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", failing_save)
    assert train("mine") == 1
    err = capsys.readouterr().err
    assert f"The disk with {tmp_path / 'mine'} is full" in err
    (checkpoint,) = run_folder.checkpoints(tmp_path / "mine")
    assert f"Run the same command to continue from {checkpoint.name}" in err
    monkeypatch.undo()
    assert train("mine") == 0


def test_run_folder_lets_one_training_into_a_folder(tmp_path: Path) -> None:
    with (
        run_folder.run_folder(tmp_path / "mine", {"a": 1}),
        pytest.raises(run_folder.FolderTakenError, match="Another process is training"),
        run_folder.run_folder(tmp_path / "mine", {"a": 1}),
    ):
        pass
    assert not (tmp_path / "mine").exists()  # it was empty, so it was removed


def test_stoppable_requests_a_stop_first_and_interrupts_then() -> None:
    with stoppable() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop == StopRequest(requested=True)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
