"""What is left to do when the process ends: end child processes, remove temporary folders.

Register such things here and not with atexit: `model/program.py` ends the programs without Python's
own clean-up. Only SIGKILL leaves things behind.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

Callback = Callable[[], object]

MAX_START_SECONDS = 1.0  # that the end waits for a child process that another thread starts

_callbacks: dict[object, Callback] = {}  # by an object of their own, in the order of registration
_starting = threading.RLock()  # held while a child process is started, and at the end of this one


def at_end(callback: Callback) -> Callback:
    """Registers what to call when the process ends, the last one first; returns a function that
    withdraws it.

    It may be called from a signal handler, in the middle of any code of the main thread: it must
    not wait for a lock, and for a thread only with a limit.
    """
    key = object()
    _callbacks[key] = callback

    def withdraw() -> None:
        _callbacks.pop(key, None)

    return withdraw


@atexit.register  # for processes that are none of the programs, such as tests
def run_callbacks() -> None:
    """Calls what is registered, each once. An error of one does not keep the others."""
    is_held = _starting.acquire(timeout=MAX_START_SECONDS)
    while _callbacks:
        _, callback = _callbacks.popitem()
        with contextlib.suppress(Exception):
            callback()
    if is_held:
        _starting.release()


class ChildProcess(subprocess.Popen[Any]):
    """A child process that is killed when this process ends.

    It is in a session of its own: Ctrl-C in the terminal, which reaches all processes there, is for
    the program, which would report a failure of the child before it ends.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        with _starting:
            # Before the start, during which a signal can come. kill() waits for no lock.
            self._withdraw = at_end(self.kill)
            try:
                super().__init__(command, start_new_session=True, **options)
            except BaseException:
                self._withdraw()
                raise

    def wait(self, timeout: float | None = None) -> int:
        status = super().wait(timeout)
        self._withdraw()
        return status


def run_child(
    command: Sequence[str],
    *,
    text: str | None = None,
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a child process to its end, and returns its status and what it printed, as UTF-8.

    Args:
        text: its standard input.
        timeout: in seconds; None for no limit.

    Raises:
        OSError: it cannot be started.
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    with ChildProcess(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        encoding="utf-8", errors="replace", cwd=cwd, env=env,
    ) as child:  # fmt: skip
        try:
            out, err = child.communicate(text or "", timeout)
        except BaseException:
            child.kill()
            raise
    with _starting:  # not at the end, which kills the child: its caller would report a failure
        return subprocess.CompletedProcess(command, child.returncode, out, err)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A new folder for this user alone, which is removed at the end of the block or process."""
    folder, remove = _new_temporary_folder()
    withdraw = at_end(remove)
    try:
        yield folder
    finally:
        remove()
        withdraw()


def keep_temporary_folder() -> Path:
    """Returns a new folder for this user alone, which is removed when the process ends."""
    folder, remove = _new_temporary_folder()
    at_end(remove)
    return folder


def _new_temporary_folder() -> tuple[Path, Callback]:
    """A new folder, and a function that removes it."""
    folder = Path(tempfile.mkdtemp(prefix="linly-chat-"))
    return folder, partial(shutil.rmtree, folder, ignore_errors=True)
