"""How programs end: on signals, with threads that compute, and with output that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from model.config.settings import CHECKOUT
from model.program import interruptible

START = """
import os, signal, sys, threading, time
from model.cleanup import ChildProcess, at_end, keep_temporary_folder
from model.program import interruptible, run_program

def wait():
    try:
        print("waits", flush=True)
        threading.Event().wait()
    finally:
        print("was interrupted", flush=True)

"""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@contextmanager
def program(code: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that defines `main` with `code` and runs it."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{START}{code}"], cwd=CHECKOUT, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(code: str, **options: Any) -> tuple[int, str, str]:
    """The status and the output of a program that ends by itself."""
    with program(code, **options) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def after_signals(code: str, *numbers: signal.Signals, **options: Any) -> tuple[int, str, str]:
    """The same for one that gets a signal after each line of its output."""
    with program(code, **options) as process:
        assert process.stdout
        for number in numbers:
            assert process.stdout.readline()
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_it_at_once(number: signal.Signals) -> None:
    done = after_signals("run_program(lambda _: wait())", number)
    assert done == (1, "", "Interrupted.\n")


def test_a_program_has_its_own_status_and_words_after_a_signal() -> None:
    done = after_signals(
        "run_program(lambda _: wait(), lambda: os.write(2, b'bye') - 3)", signal.SIGTERM
    )
    assert done == (0, "", "bye")


def test_words_that_fail_are_replaced() -> None:
    done = after_signals("run_program(lambda _: wait(), lambda: 1 / 0)", signal.SIGTERM)
    assert done == (1, "", "Interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_the_words_have_a_line_of_their_own_on_a_terminal() -> None:
    import pty

    controller, terminal = pty.openpty()
    code = "os.write(2, b'Loading 50 %')\nrun_program(lambda _: wait())"
    try:
        assert after_signals(code, signal.SIGTERM, stderr=terminal)[0] == 1
        assert os.read(controller, 100) == b"Loading 50 %\r\nInterrupted.\r\n"
    finally:
        os.close(controller)
        os.close(terminal)


def test_nohup_is_heeded() -> None:
    """But SIGINT is not ignored, as shells do it for programs in the background."""

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    code = "run_program(lambda _: os.kill(os.getpid(), signal.SIGHUP) or wait())"
    assert after_signals(code, signal.SIGINT, preexec_fn=ignore) == (1, "", "Interrupted.\n")


def test_an_interruptible_block_is_left_by_ctrl_c() -> None:
    code = """
def main(_):
    try:
        with interruptible():
            wait()
    except KeyboardInterrupt:
        return 5

run_program(main)
"""
    assert after_signals(code, signal.SIGINT) == (5, "was interrupted\n", "")


def test_the_handler_is_as_before_after_an_interruptible_block() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("ending", [*SIGNALS, "return", "exception"])
def test_child_processes_and_temporary_folders_go(ending: signal.Signals | str) -> None:
    code = f"""
def main(_):
    ChildProcess([sys.executable, "-c", "import time; time.sleep(600)"])
    print(keep_temporary_folder(), flush=True)
    if {ending == "exception"}:
        raise ValueError
    if {ending in SIGNALS}:
        wait()

run_program(main)
"""
    with program(code) as process:
        assert process.stdout
        folder = Path(process.stdout.readline().strip())
        if isinstance(ending, signal.Signals):
            process.stdout.readline()
            process.send_signal(ending)
        # The child has inherited the pipes: they are closed when both processes have ended.
        process.communicate(timeout=60)
    assert not folder.exists()


def test_a_second_signal_ends_the_clean_up() -> None:
    code = """
def clean_up():
    os.write(1, b"cleans up\\n")
    threading.Event().wait()

at_end(clean_up)
run_program(lambda _: wait())
"""
    done = after_signals(code, signal.SIGTERM, signal.SIGINT)
    assert done == (1, "", "Interrupted.\n")


def test_a_thread_in_torch_does_not_abort_the_end() -> None:
    """With Python's own end the status was 134 in most runs."""
    code = """
import torch
def compute():
    while True:
        torch.ones(64, 64) @ torch.ones(64, 64)

for _ in range(4):
    threading.Thread(target=compute, daemon=True).start()
run_program(lambda _: time.sleep(0.1) or 0)
"""
    for _ in range(3):
        assert ended(code) == (0, "", "")


def test_a_thread_that_waits_does_not_delay_the_end() -> None:
    code = "threading.Thread(target=wait).start()\nrun_program(lambda _: 3)"
    status, _, err = ended(code)
    assert (status, err) == (3, "")


@pytest.mark.parametrize(
    ("statement", "status", "error"),
    [
        ("sys.exit()", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit('a reason')", 1, "a reason\n"),
    ],
)
def test_system_exit_is_heeded(statement: str, status: int, error: str) -> None:
    assert ended(f"run_program(lambda _: {statement})") == (status, "", error)


def test_an_unexpected_error_has_its_stack_trace() -> None:
    status, _, error = ended("run_program(lambda _: 1 / 0)")
    assert status == 1
    assert error.startswith("Traceback")
    assert error.endswith("ZeroDivisionError: division by zero\n")


def test_arguments_are_those_of_the_command_line() -> None:
    status, out, _ = ended("sys.argv = ['x', '1']\nrun_program(lambda args: print(args) or 0)")
    assert (status, out) == (0, "['1']\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_output_that_cannot_be_written_is_a_failure() -> None:
    with Path("/dev/full").open("w") as full:
        status, _, error = ended("run_program(lambda _: print('text') or 0)", stdout=full)
    assert status == 1
    assert error.startswith("The output could not be written: ")
    assert len(error.splitlines()) == 1


def test_closed_streams_get_no_other_file(tmp_path: Path) -> None:
    """The next file to be opened had the number of stderr."""
    file = tmp_path / "file"
    code = f"""
def main(_):
    with open({str(file)!r}, "w"):
        for stream in (sys.stdout, sys.stderr):
            print("text", file=stream, flush=True)
        for number in (1, 2):
            try:
                os.write(number, b"text")
            except OSError:
                pass
    return sys.stdin.read() != ""

run_program(main)
"""
    status, *_ = ended(code, preexec_fn=lambda: os.closerange(0, 3))
    assert status == 0
    assert file.read_text() == ""


@pytest.mark.parametrize("flush", [True, False])
def test_a_closed_pipe_is_a_silent_failure(flush: bool) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code = f"run_program(lambda _: print('text', flush={flush}) or 0)"
        status, _, error = ended(code, stdout=writer)
    finally:
        os.close(writer)
    assert (status, error) == (1, "")
