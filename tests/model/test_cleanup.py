"""What is done at the end of a process: callbacks, child processes, temporary folders."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import cleanup
from model.cleanup import (
    ChildProcess,
    at_end,
    keep_temporary_folder,
    run_callbacks,
    run_child,
    temporary_folder,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(autouse=True)
def _no_callbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Callbacks of the tests alone."""
    monkeypatch.setattr(cleanup, "_callbacks", {})
    yield
    run_callbacks()


def test_the_last_callback_comes_first_and_an_error_keeps_none_of_them() -> None:
    calls: list[str] = []
    at_end(lambda: calls.append("first"))
    at_end(lambda: 1 / 0)
    at_end(lambda: calls.append("last"))
    run_callbacks()
    run_callbacks()
    assert calls == ["last", "first"]


def test_the_same_callback_is_withdrawn_once() -> None:
    calls: list[str] = []

    def callback() -> None:
        calls.append("called")

    withdraw = at_end(callback)
    at_end(callback)
    withdraw()
    withdraw()
    run_callbacks()
    assert calls == ["called"]


def test_a_child_process_is_killed() -> None:
    with ChildProcess(SLEEP) as child:
        run_callbacks()
    assert child.returncode < 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no sessions of processes")
def test_ctrl_c_in_the_terminal_does_not_reach_children() -> None:
    """The program warned that its kernels, or the model's template, had failed."""
    with ChildProcess(SLEEP) as child:
        session = os.getsid(child.pid)
        child.kill()
    assert session == child.pid != os.getsid(0)


def test_a_child_that_another_thread_starts_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was left behind if the program ended during the start."""
    monkeypatch.setattr(cleanup, "MAX_START_SECONDS", 60)
    starts = threading.Event()
    start = subprocess.Popen.__init__
    children: list[ChildProcess] = []

    def slow_start(child: ChildProcess, *args: object, **options: object) -> None:
        starts.set()
        threading.Event().wait(0.3)
        start(child, *args, **options)  # type: ignore[arg-type]
        children.append(child)

    monkeypatch.setattr(subprocess.Popen, "__init__", slow_start)
    thread = threading.Thread(target=lambda: ChildProcess(SLEEP).wait(), daemon=True)
    thread.start()
    starts.wait(60)
    run_callbacks()
    thread.join(60)
    assert children[0].returncode < 0


def test_a_child_that_ended_leaves_no_callback() -> None:
    assert run_child([sys.executable, "-c", ""]).returncode == 0
    with pytest.raises(OSError, match="no-such-program"):
        run_child(["no-such-program"])
    assert cleanup._callbacks == {}


def test_output_of_a_child_is_text() -> None:
    code = "import sys; print(sys.stdin.buffer.read()); sys.stdout.buffer.write(b'\\xff\\xe4')"
    done = run_child([sys.executable, "-c", code + "; sys.exit('no')"], text="é")
    assert done.returncode == 1
    assert "\ufffd" in done.stdout
    assert str("é".encode()) in done.stdout
    assert done.stderr.strip() == "no"


def test_a_child_that_takes_too_long_is_killed() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_child(SLEEP, timeout=0.01)
    assert cleanup._callbacks == {}


def test_a_child_that_the_end_kills_is_no_failure() -> None:
    """The thread that waited for it warned of a failure before the process ended."""
    thread = threading.Thread(target=run_child, args=(SLEEP,), daemon=True)
    is_waiting = []

    def check() -> None:
        thread.join(1)
        is_waiting.append(thread.is_alive())

    at_end(check)  # called last
    thread.start()
    while len(cleanup._callbacks) < 2:
        time.sleep(0.01)
    run_callbacks()
    assert is_waiting == [True]
    thread.join(60)
    assert not thread.is_alive()


def test_temporary_folders_are_removed() -> None:
    kept = keep_temporary_folder()
    with temporary_folder() as folder:
        (folder / "file").touch()
        assert (folder.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o700)
    assert (folder.exists(), kept.exists()) == (False, True)
    (kept / "file").touch()
    run_callbacks()
    assert not kept.exists()


def test_an_open_temporary_folder_is_removed_at_the_end() -> None:
    with temporary_folder() as folder:
        run_callbacks()
        assert not folder.exists()


def test_other_processes_clean_up_at_their_end(tmp_path: Path) -> None:
    """Those that are none of the programs, such as tests and measurements."""
    code = "from model.cleanup import *; print(keep_temporary_folder(), ChildProcess({!r}).pid)"
    done = subprocess.run(
        [sys.executable, "-c", code.format(SLEEP)], capture_output=True, text=True, check=True
    )
    folder, pid = done.stdout.split()
    assert not Path(folder).exists()
    assert not _is_alive(int(pid))


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
