"""A peer's process: started, listened to until it is ready, frozen while others work, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import httpx

from bench.peers.base import PeerError

CHECKOUT = Path(__file__).parents[2]
POLL_SECONDS = 0.2
GRACE_SECONDS = 15


class Child:
    """A process whose standard output is read line by line; its errors go to the file `log`.

    With what it starts itself it is a process group. Where the parent dies, the kernel ends a group
    that is frozen, and standard input ends for a child that reads from there.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._log = log
        self._stopped = False
        with log.open("w", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def read(self) -> str:
        """The next line of its output, without the line's end.

        Raises:
            PeerError: it has ended; with the last line of its errors.
        """
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise PeerError(self._last_words())
        return line.rstrip("\n")

    def write(self, line: str) -> None:
        """Send one line to its input."""
        if self._process.stdin is None:
            raise PeerError(self._last_words())
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(self._last_words()) from error

    def wait_for(self, url: str, seconds: float) -> None:
        """Wait until `url` answers with 200."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise PeerError(self._last_words())
            if _answers(url):
                return
            time.sleep(POLL_SECONDS)
        raise PeerError(f"did not answer within {seconds:.0f} s")

    def freeze(self) -> None:
        """Take it off the cores: some servers poll while they wait."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it and whatever it has started; once, as its number may be another's later."""
        if self._stopped:
            return
        self._stopped = True
        self._signal(signal.SIGTERM)
        self.thaw()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # none of the group is left
            os.killpg(self.pid, number)

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"its process ended ({said[-1][:200] if said else 'without a word'})"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
