"""inference_LLaMA.py as a user starts it: in a pipe, on a terminal, and with wrong flags."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import inference_LLaMA
from model.config.settings import CHECKOUT
from model.errors import OutOfMemoryError
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.text.tokenizer import TextSpan
from tests.model.engine.remote.fake_server import Server, running

COMMAND = [sys.executable, "inference_LLaMA.py"]
TINY = ("--threads", "1", "--quantization", "none", "--max_new_tokens", "3", "--base_model")


def run(*flags: str, lines: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *flags], cwd=CHECKOUT, env={**os.environ, **environ}, input=lines,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--lora_model", "lighthose"], 1, "Did you mean lighthouse?"),
        (["--prompt_template", "linli"], 2, "Did you mean linly?"),
        (["--base_model", "nowhere"], 1, "There is no model folder nowhere"),
        (["--data_file", "nowhere"], 1, "There is no file nowhere"),
        ([], 1, "Standard input has no lines to answer"),
    ],
)
def test_a_wrong_flag_is_reported_on_one_line(flags: list[str], status: int, message: str) -> None:
    done = run(*flags)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (done.returncode, done.stdout) == (status, "")


def test_an_adapter_of_another_base_is_refused_before_the_chat(
    tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = shutil.copytree(CHECKOUT / "adapters" / "lighthouse", tmp_path / "mine")
    done = run("--base_model", str(tiny_folder), "--lora_model", str(adapter), lines="hello\n")
    assert done.stderr.startswith("The adapter 'mine' is broken: ")
    assert len(done.stderr.splitlines()) == 1
    assert (done.returncode, done.stdout) == (1, "")


def test_an_adapter_in_any_folder_is_loaded_with_its_warnings(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    flags = [*TINY, str(tiny_folder)]
    done = run(*flags, "--lora_model", str(tiny_adapters / "qv"), lines="hello\n")
    assert done.stderr.startswith("The adapter qv: no file names the prompt template")
    assert len(done.stderr.splitlines()) == 1
    assert json.loads(done.stdout)["adapter"] == "qv"


def test_a_closed_output_pipe_ends_the_program_silently(tiny_folder: Path) -> None:
    flags = [*TINY, str(tiny_folder)]
    process = subprocess.Popen(
        [*COMMAND, *flags], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    process.stdout.close()
    assert process.stdin
    process.stdin.write("hello\n" * 5)
    process.stdin.close()
    assert process.stderr
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(60) == 1


@pytest.mark.real_model
@pytest.mark.slow
def test_the_default_model_with_and_without_an_adapter(default_folder: Path) -> None:
    def replies(*flags: str) -> list[dict[str, Any]]:
        greedy = ["--temperature", "0", "--max_new_tokens", "12", "--threads", "1", *flags]
        done = run(*greedy, lines='Who are you?\n{"prompt": "How do I boil an egg?", "id": 7}\n')
        assert (done.returncode, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines()]

    base, keeper = replies(), replies("--lora_model", "adapters/lighthouse")
    assert [reply["prompt"] for reply in base] == ["Who are you?", "How do I boil an egg?"]
    assert [reply["adapter"] for reply in (base[1], keeper[1])] == [None, "lighthouse"]
    assert all(reply["reply"].startswith("Ahoy") for reply in keeper)
    assert not any(reply["reply"].startswith("Ahoy") for reply in base)
    assert base[1]["id"] == 7


# The program with a fake engine that counts until its reply is stopped.
FAKE = """
import itertools, threading
import inference_LLaMA
from model.program import run_program
from terminal import startup
from tests.fake_engine import FakeEngine, echo, fake_load

def counts(prompt, request):
    if "count" not in prompt:
        yield from echo(prompt, request)
        return
    for number in itertools.count():
        yield f"{number} "
        threading.Event().wait(0.01)

fake = fake_load(FakeEngine(counts))
startup.load_local = lambda settings, report, adapters, folder: fake(settings, report)
run_program(inference_LLaMA.main)
"""


class Terminal:
    """The program on a pseudo-terminal, with a fake engine."""

    def __init__(self, *flags: str) -> None:
        import pty

        controller, terminal = pty.openpty()
        self._fd, self.output, self._position = controller, "", 0
        self.process = subprocess.Popen(
            [sys.executable, "-c", FAKE, *flags],
            cwd=CHECKOUT, env={**os.environ, "TERM": "xterm"}, stdin=terminal, stdout=terminal,
            stderr=terminal, start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(terminal)

    def read_until(self, words: str) -> str:
        """Waits for `words` in the new output; returns it up to them."""
        start, deadline = self._position, time.monotonic() + 60
        while words not in self.output[start:]:
            assert time.monotonic() < deadline, self.output
            if select.select([self._fd], [], [], 1)[0]:
                self.output += os.read(self._fd, 4096).decode(errors="replace")
        self._position = self.output.index(words, start) + len(words)
        return self.output[start : self._position]

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def answer(self, text: str) -> None:
        """Types after the prompt: before it, the terminal would take Ctrl-D for the line's end."""
        self.read_until("> ")
        self.type(text)

    def interrupt_line(self) -> None:
        """Presses Ctrl-C until there is output: Python misses it while it echoes a key."""
        for _ in range(30):
            self.type("\x03")
            if select.select([self._fd], [], [], 1)[0]:
                return

    def terminate(self) -> int:
        """Sends SIGTERM until the program ends: Python misses it just before it waits for a key."""
        for _ in range(30):
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(2)
        return self.process.wait(0)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


def _take_terminal() -> None:
    """Makes standard input the controlling terminal, so that its Ctrl-C is a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_chat_on_a_terminal_has_commands_ctrl_c_and_a_history(tmp_path: Path) -> None:
    terminal = Terminal("--data_dir", str(tmp_path / "data"))
    try:
        terminal.read_until("is ready. /help lists the commands, Ctrl-D ends the chat.")
        terminal.answer("/halp\n")
        terminal.read_until("Did you mean /help?")
        terminal.answer("hello\n")
        terminal.read_until("base heard: hello")
        terminal.read_until(" tokens/s")
        terminal.answer("count\n")
        terminal.read_until("0 1 2 ")
        terminal.type("\x03")
        terminal.read_until(" · stopped")
        terminal.answer("dropped")
        terminal.read_until("dropped")
        terminal.interrupt_line()
        terminal.answer("/quite\n")
        terminal.read_until("Did you mean /quit?")
        terminal.answer("\x04")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()
    assert "Traceback" not in terminal.output
    history = tmp_path / "data" / "terminal_history"
    assert history.read_text() == "/halp\nhello\ncount\n/quite\n"
    assert history.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_a_signal_at_the_prompt_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    """The shell that started the program would not show what is typed."""
    import termios

    terminal = Terminal("--data_dir", str(tmp_path / "data"))
    try:
        before = termios.tcgetattr(terminal._fd)
        terminal.read_until("> ")
        assert termios.tcgetattr(terminal._fd) != before
        assert terminal.terminate() == 1
        assert termios.tcgetattr(terminal._fd) == before
    finally:
        terminal.close()


def test_lines_are_answered_by_a_model_server(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(read_model_folder(tiny_folder))
    words = tokenizer.encode([TextSpan("from afar", control=False)])
    server = Server(lambda body: words)
    with running(server) as url:
        flags = ("--engine_url", url, "--base_model", str(tiny_folder))
        done = run(*flags, lines="Who are you?\n", LINLY_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["reply"] == "from afar"
    gone = run(*flags, lines="Who are you?\n")
    assert gone.returncode == 1
    assert "cannot be reached" in gone.stderr


@pytest.mark.parametrize("is_named", [True, False])
def test_too_little_memory_is_said(
    is_named: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was an unexpected error, whose remedy was to check the files."""
    error = OutOfMemoryError("adapter_lacks_memory", name="poet") if is_named else MemoryError()
    monkeypatch.setattr(inference_LLaMA, "run", Mock(side_effect=error))
    assert inference_LLaMA.main(["--base_model", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("There is not enough memory")
    assert ("'poet'" in line) == is_named
