"""What all programs have in common when they are started wrongly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from model.translations import LocalizedText
from training.events import TrainingFailed, from_line

# Each program, as Python's arguments, with one of its flags.
PROGRAMS = {
    "app.py": "--server_port",
    "inference_LLaMA.py": "--lora_model",
    "finetune.py": "--data_path",
    "-m model merge": "--lora_model",
}
COMMANDS = ["app.py", "inference_LLaMA.py", "finetune.py", "-m model check adapters/lighthouse"]
SENTENCES = {  # after a signal, where it is no "Interrupted."
    "app.py": "",
    "finetune.py": "Interrupted before the first step. Run the same command to start again.\n",
}
MISSING = "raise ModuleNotFoundError('x', name='platformdirs')"
each_program = pytest.mark.parametrize(("program", "flag"), PROGRAMS.items(), ids=PROGRAMS)


def run(program: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *program.split(), *flags],
        cwd=CHECKOUT, env={**os.environ, **environment}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


@pytest.fixture
def without_torch(tmp_path: Path) -> str:
    """A PYTHONPATH with which importing torch ends the program."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    return str(tmp_path)


@each_program
def test_help_lists_the_flags_without_torch(program: str, flag: str, without_torch: str) -> None:
    done = run(program, "--help", PYTHONPATH=without_torch)
    assert (done.returncode, done.stderr) == (0, "")
    assert flag in done.stdout


@each_program
def test_misspelt_flag_is_one_sentence(program: str, flag: str, without_torch: str) -> None:
    done = run(program, flag[:-1], "1", PYTHONPATH=without_torch)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Did you mean {flag}?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("program", COMMANDS)
def test_missing_package_is_named(program: str, tmp_path: Path) -> None:
    """As after a `git clone` without `pip install`: one sentence, no stack trace."""
    (tmp_path / "platformdirs.py").write_text(MISSING)
    done = run(program, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"The Python package platformdirs is missing. Run `{sys.executable} -m pip install "
        "-r requirements.txt`, or use `make run`.\n"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("program", COMMANDS)
def test_a_signal_during_the_imports_ends_it(
    program: str, number: signal.Signals, tmp_path: Path
) -> None:
    """A KeyboardInterrupt there printed a stack trace, or aborted the process in a library."""
    (tmp_path / "platformdirs.py").write_text(
        f"import os\ntry:\n    os.kill(os.getpid(), {number.value})\nfinally:\n    print('unwound')"
    )
    done = run(program, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (0 if program == "app.py" else 1, "")
    assert done.stderr == SENTENCES.get(program, "Interrupted.\n")


def test_a_training_that_is_cancelled_at_once_is_told_to_the_page(tmp_path: Path) -> None:
    (tmp_path / "platformdirs.py").write_text("import os; os.kill(os.getpid(), 15)")
    done = run("finetune.py", "--progress", "json", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    event = from_line(done.stdout.strip())
    assert event == TrainingFailed(LocalizedText("training_interrupted_early"))
