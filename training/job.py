"""One training at a time in a process of its own, for a program that goes on meanwhile.

The process is `finetune.py` itself, which tells its events as lines of JSON. It gives way to
whoever chats, may not take the memory that is left, and ends with a checkpoint when the program
that started it is gone.
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
from model.system_resources import available_memory
from model.translations import LocalizedText, verbatim
from model.types import LinlyError
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

MEMORY_SHARE = 0.8  # of what is free when it starts
NICENESS = 10
END_SECONDS = 20  # for the last checkpoint, when the program ends


class BusyTrainingError(LinlyError):
    """A training is running already."""

    http_status = 409
    code = "training_busy"


class StartError(LinlyError):
    """The system refuses to start a process."""

    code = "training_not_started"


@dataclass(frozen=True)
class Job:
    """A training as it stands. `phase` is running, done, stopped or failed; `text` tells what came
    of it, or why nothing did. `losses` and `measured` are (step, loss)."""

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

    def after(self, event: Event) -> Job:
        """The job once `event` has been told."""
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
    """What is run: this program's own command."""
    return [sys.executable, str(CHECKOUT / "finetune.py"), *flags, "--progress", "json"]


@dataclass
class TrainingRunner:
    """Starts trainings and tells how the last one is. Safe to call from any thread.

    Args:
        environment: for the process, on top of this one's own without its secrets.
        command: flags to what is run; tests have a script of their own.
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
        """The training that runs, else the last one; None before the first."""
        return self._job

    @property
    def running(self) -> bool:
        """Whether one is under way."""
        return self._job is not None and self._job.running

    def start(self, name: str, folder: Path, flags: Sequence[str]) -> None:
        """Train the adapter `name` into `folder`; returns at once.

        Raises:
            BusyTrainingError: one is running.
        """
        with self._lock:
            if self._job is not None and self.running:
                raise BusyTrainingError("training_running", name=self._job.name)
            self._process = self._started(flags)
            self._cancelled = False
            self._job = Job(name, folder)
            _give_way(self._process.pid)
            self._reader = threading.Thread(
                target=self._follow, args=(self._process,), name="training", daemon=True
            )
            self._reader.start()

    def _started(self, flags: Sequence[str]) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                self.command(flags), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
                env={
                    **without_secrets(os.environ), "PYTHONIOENCODING": "utf-8", **self.environment,
                },
                start_new_session=True,  # Ctrl-C in the terminal is for the program, not for it
            )  # fmt: skip
        except OSError as error:
            said = error.strerror or str(error)
            raise StartError("training_not_started", reason=said) from error

    def cancel(self) -> None:
        """End the training after its step, with a checkpoint."""
        with self._lock:
            # A second signal would end it at once, without its checkpoint.
            if self._process and self._process.poll() is None and not self._cancelled:
                self._cancelled = True
                if self._job is not None:
                    self._job = replace(self._job, cancelling=True)
                self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """The program ends, and so does the training; its checkpoint stays."""
        self.cancel()
        reader = self._reader
        if reader is not None:
            reader.join(END_SECONDS)
        if self._process and self._process.poll() is None:
            self._process.kill()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        complaints: list[str] = []
        with process:  # closes its pipes
            listener = threading.Thread(target=_collect, args=(process.stderr, complaints))
            listener.start()
            for line in process.stdout or ():
                event = from_line(line)
                if event is not None:
                    self._tell(event)
            listener.join()
        self._end(process.returncode, complaints)

    def _tell(self, event: Event) -> None:
        with self._lock:
            if self._job is not None:
                self._job = self._job.after(event)

    def _end(self, status: int, complaints: Sequence[str]) -> None:
        if self._job is None:
            return
        if status == 0:
            self._job = replace(self._job, phase="done")
            return
        text = self._job.text or verbatim(complaints[-1] if complaints else "")
        if status == -signal.SIGKILL and not self._cancelled:
            text = LocalizedText("training_killed")
        elif not str(text):
            text = LocalizedText("training_ended_with", {"status": status})
        phase = "stopped" if self._cancelled else "failed"
        self._job = replace(self._job, phase=phase, text=text)


def _collect(stream: IO[str] | None, lines: list[str]) -> None:
    for line in stream or ():
        if line.strip():
            lines.append(line.strip())
            del lines[:-20]


def _give_way(pid: int) -> None:
    """Chats go first: for the cores, for the memory, and when the system has to end somebody.

    What a system does not have is left out; the training runs all the same.
    """
    try:
        import resource

        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        most = int(available_memory() * MEMORY_SHARE)
        resource.prlimit(pid, resource.RLIMIT_DATA, (most, most))
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000", encoding="ascii")
    except (ImportError, AttributeError, OSError):
        return
