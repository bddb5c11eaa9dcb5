"""The interface of a measured server (`Peer`), its requests and replies, and its child process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from bench.common import PeerError
from model.config.settings import CHECKOUT

THIS_PROGRAM = "ours"  # this program's name among the peers, in flags and in JSON
POLL_SECONDS = 0.2
GRACE_SECONDS = 15  # between SIGTERM and SIGKILL


@dataclass(frozen=True)
class Turn:
    """One message of a chat; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Question:
    """One request, decoded greedily.

    `tokens` is the length of the reply: the exact one if `exact`, else the limit. `adapter` is an
    index into the benchmark's adapters; None selects the base.
    """

    turns: tuple[Turn, ...]
    tokens: int
    adapter: int | None = None
    exact: bool = True


@dataclass(frozen=True)
class PeerReply:
    """A reply: seconds from the request to the first text and to the end, and its tokens."""

    text: str
    first: float
    seconds: float
    tokens: int

    @property
    def speed(self) -> float:
        """Tokens a second after the first one."""
        return (self.tokens - 1) / max(self.seconds - self.first, 1e-9)


@dataclass(frozen=True)
class BenchFixtures:
    """What all peers serve: the base as a Hugging Face folder, and PEFT adapter folders.

    `names` are folders in `adapters`. Files in `cache` are kept for the next run, those in
    `scratch` are not. `threads` is the number of cores.
    """

    base: Path
    adapters: Path
    names: tuple[str, ...]
    cache: Path
    scratch: Path
    threads: int

    def paths(self, count: int) -> list[Path]:
        """The first `count` adapters' folders."""
        return [self.adapters / name for name in self.names[:count]]


class ChildProcess:
    """A process whose standard output is read line by line; its errors go to the file `log`.

    It leads a process group. If the parent dies, the kernel ends a group that is stopped, and a
    child that reads its standard input sees the end of it.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        self._stopped = False
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command, cwd=CHECKOUT, env=environ, text=True, process_group=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self) -> str:
        """The next line of its output, without the line break.

        Raises:
            PeerError: the process ended.
        """
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise self._ended()
        return line.rstrip("\n")

    def write(self, line: str) -> None:
        """Send one line to its input."""
        if self._process.stdin is None:
            raise self._ended()
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._ended() from error

    def wait_for(self, url: str, seconds: float) -> None:
        """Wait until `url` answers with 200."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise self._ended()
            with suppress(httpx.TransportError):
                if httpx.get(url, timeout=5).status_code == httpx.codes.OK:
                    return
            time.sleep(POLL_SECONDS)
        raise PeerError(f"did not answer within {seconds:.0f} s")

    def pause(self) -> None:
        """Stop the group: some servers poll while they wait."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End the group; only once, as its id may be another's later."""
        if self._stopped:
            return
        self._stopped = True
        self._signal(signal.SIGTERM)
        self.resume()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # the whole group has ended
            os.killpg(self.pid, number)

    def _ended(self) -> PeerError:
        """The error that quotes the last line of the log."""
        text = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        return PeerError(f"its process ended ({lines[-1][:200] if lines else 'without a word'})")


class Peer(ABC):
    """A server in a process of its own. It takes `max_users` at once, with `max_adapters`.

    Subclasses set `child` in `start`.
    """

    name: str
    max_users: int
    max_adapters: int

    def __init__(self, fixtures: BenchFixtures) -> None:
        self.fixtures = fixtures
        self.child: ChildProcess | None = None

    @property
    def pid(self) -> int:
        """Process id of the started peer."""
        if self.child is None:
            raise RuntimeError("the peer has not been started")
        return self.child.pid

    @abstractmethod
    def start(self) -> str:
        """Start it and wait until it answers; returns a one-line description.

        Raises:
            PeerError: it did not start.
            PeerMissingError: it is not installed.
        """

    @abstractmethod
    def ask(self, questions: Sequence[Question]) -> list[PeerReply]:
        """Send all questions at the same moment; returns the replies in the questions' order.

        Raises:
            PeerError: a request failed.
        """

    def pause(self) -> None:
        """Stop its processes, so that they use no core until `resume`; they stay in memory."""
        if self.child is not None:
            self.child.pause()

    def resume(self) -> None:
        if self.child is not None:
            self.child.resume()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Lets the paused peer run within the `with` block."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def stop(self) -> None:
        """End it; also after a failed `start`, and repeatedly."""
        if self.child is not None:
            self.child.stop()
            self.child = None
