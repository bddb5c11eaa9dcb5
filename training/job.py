"""Runs one training at a time in a child process, for a program that serves chats meanwhile.

The child is `finetune.py`, which prints its events as lines of JSON. It has a lower priority than
the chats and a limit on its memory, and it stops with a checkpoint when the parent process is gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from model.config.process_secrets import without_secrets
from model.config.settings import CHECKOUT
from model.errors import LinlyError
from model.system_resources import available_memory
from model.translations import LocalizedText, verbatim
from training.events import (
    Event,
    HeldOut,
    Note,
    Stage,
    Step,
    TrainingEnded,
    TrainingFailed,
    from_line,
)

MEMORY_SHARE = 0.8  # of the memory that is free at the start
NICENESS = 10
MAX_ERROR_LINES = 20
STOP_SECONDS = 20  # for the last checkpoint, when the program ends


class BusyTrainingError(LinlyError):
    """A training is running already."""

    http_status = 409
    code = "training_busy"


class StartError(LinlyError):
    """The system refuses to start a process."""

    code = "training_not_started"


@dataclass(frozen=True)
class Job:
    """State of a training. `phase` is running, done, stopped or failed; `text` is the result, or
    the reason why there is none. `losses` and `measured` (on held-out chats) are (step, loss)."""

    name: str
    folder: Path
    phase: str = "running"
    stage: str = "data"
    step: Step | None = None
    losses: tuple[tuple[int, float], ...] = ()
    measured: tuple[tuple[int, float], ...] = ()
    notes: tuple[LocalizedText, ...] = ()
    text: LocalizedText | None = None
    cancelling: bool = False

    @property
    def running(self) -> bool:
        return self.phase == "running"

    def with_event(self, event: Event) -> Job:
        """The state after `event`."""
        match event:
            case Stage(name):
                return replace(self, stage=name)
            case Note(text):
                return replace(self, notes=(*self.notes, text))
            case Step():
                return replace(self, step=event, losses=(*self.losses, (event.step, event.loss)))
            case HeldOut(step, loss):
                return replace(self, measured=(*self.measured, (step, loss)))
            case TrainingEnded(text=text) | TrainingFailed(text=text):
                return replace(self, text=text)


Command = Callable[[Sequence[str]], Sequence[str]]


def finetune_command(flags: Sequence[str]) -> Sequence[str]:
    """The command line of `finetune.py` with `flags`."""
    return [sys.executable, str(CHECKOUT / "finetune.py"), *flags, "--progress", "json"]


@dataclass
class TrainingRunner:
    """Starts trainings and follows the last one. Safe to call from any thread.

    Args:
        environment: added to this process's environment, without its secrets.
        command: makes the command line from flags; tests run a script of their own.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    command: Command = finetune_command
    _job: Job | None = None
    _process: subprocess.Popen[str] | None = None
    _cancelled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _reader: threading.Thread | None = None

    @property
    def job(self) -> Job | None:
        """The running training, else the last one; None before the first."""
        return self._job

    @property
    def running(self) -> bool:
        """Whether a training is running."""
        return self._job is not None and self._job.running

    def start(self, name: str, folder: Path, flags: Sequence[str]) -> None:
        """Starts to train the adapter `name` into `folder`; returns at once.

        Raises:
            BusyTrainingError: a training is running.
            StartError: the process cannot be started.
        """
        with self._lock:
            if self._job is not None and self.running:
                raise BusyTrainingError("training_running", name=self._job.name)
            self._process = self._start_process(flags)
            self._cancelled = False
            self._job = Job(name, folder)
            _lower_priority(self._process.pid)
            self._reader = threading.Thread(
                target=self._follow, args=(self._process,), name="training", daemon=True
            )
            self._reader.start()

    def _start_process(self, flags: Sequence[str]) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                self.command(flags), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
                env={
                    **without_secrets(os.environ), "PYTHONIOENCODING": "utf-8", **self.environment,
                },
                start_new_session=True,  # Ctrl-C in the terminal is for the parent alone
            )  # fmt: skip
        except OSError as error:
            reason = error.strerror or str(error)
            raise StartError("training_not_started", reason=reason) from error

    def cancel(self) -> None:
        """Stops the training after its current step, with a checkpoint."""
        with self._lock:
            # A second signal would end the child at once, without its checkpoint.
            if self._process and self._process.poll() is None and not self._cancelled:
                self._cancelled = True
                if self._job is not None:
                    self._job = replace(self._job, cancelling=True)
                self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Stops the training, with a checkpoint, because the program ends."""
        self.cancel()
        reader = self._reader
        if reader is not None:
            reader.join(STOP_SECONDS)
        if self._process and self._process.poll() is None:
            self._process.kill()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Applies the process's events until it ends; runs in a thread."""
        error_lines: list[str] = []
        with process:  # closes its pipes
            collector = threading.Thread(target=_collect_lines, args=(process.stderr, error_lines))
            collector.start()
            for line in process.stdout or ():
                event = from_line(line)
                if event is not None:
                    self._apply(event)
            collector.join()
        self._finish(process.returncode, error_lines)

    def _apply(self, event: Event) -> None:
        with self._lock:
            if self._job is not None:
                self._job = self._job.with_event(event)

    def _finish(self, status: int, error_lines: Sequence[str]) -> None:
        if self._job is None:
            return
        if status == 0:
            self._job = replace(self._job, phase="done")
            return
        text = self._job.text or verbatim(error_lines[-1] if error_lines else "")
        if status == -signal.SIGKILL and not self._cancelled:
            text = LocalizedText("training_killed")
        elif not str(text):
            text = LocalizedText("training_ended_with", {"status": status})
        phase = "stopped" if self._cancelled else "failed"
        self._job = replace(self._job, phase=phase, text=text)


def _collect_lines(stream: IO[str] | None, lines: list[str]) -> None:
    """Reads a stream to its end; `lines` has its last lines."""
    for line in stream or ():
        if line.strip():
            lines.append(line.strip())
            del lines[:-MAX_ERROR_LINES]


def _lower_priority(pid: int) -> None:
    """Gives chats precedence: in CPU time, in memory, and when the system has to kill a process.

    On a system that lacks one of these controls, the training runs without the rest of them.
    """
    try:
        import resource

        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        limit = int(available_memory() * MEMORY_SHARE)
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")
    except (ImportError, AttributeError, OSError):
        return
