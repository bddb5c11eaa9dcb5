"""Records how late things happen in files, for `pauses.py`: the event loop, and /health.

- `python -m bench.page_load.loop_delay app FILE [flags of app.py]` serves the app and has its event
  loop call a sampler every few milliseconds; a call that comes late tells how long the loop did
  something else.
- `python -m bench.page_load.loop_delay probe FILE ADDRESS` asks the server for /health repeatedly
  and records how long each answer took, until its input ends. It is a process of its own, so that
  no other work of the measurement delays it.

One process writes a file while another one reads it. Times are those of `time.monotonic`, the same
clock for all processes of a Linux machine.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.peers.openai_client import connect

SAMPLE_SECONDS = 0.002  # between two calls of the sampler
MIN_DELAY = 0.002  # seconds; shorter ones are not recorded
PROBE_SECONDS = 0.005  # from one request to the next


class DelayFile:
    """A file of delays that is being written, one a line with the time at which it ended."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="ascii", buffering=1)

    def add(self, seconds: float) -> None:
        """Record a delay that ends now."""
        self._file.write(json.dumps([time.monotonic(), seconds]) + "\n")

    def close(self) -> None:
        self._file.close()


@contextmanager
def delay_file(path: Path) -> Iterator[DelayFile]:
    file = DelayFile(path)
    try:
        yield file
    finally:
        file.close()


def longest_delay(path: Path, since: float, until: float) -> float:
    """The longest delay in seconds that overlaps this time; 0.0 without any."""
    return max(
        (delay for end, delay in _delays(path) if end >= since and end - delay <= until),
        default=0.0,
    )


def median_delay(path: Path) -> float:
    return median([delay for _, delay in _delays(path)] or [0.0])


def _delays(path: Path) -> Iterator[tuple[float, float]]:
    for line in path.read_text(encoding="ascii").splitlines(keepends=True):
        if line.endswith("\n"):  # otherwise it is being written
            end, delay = json.loads(line)
            yield end, delay


def sample(loop: asyncio.AbstractEventLoop, file: DelayFile) -> None:
    """Record the delays of `loop` from now on."""
    due = time.monotonic() + SAMPLE_SECONDS

    def measure() -> None:
        delay = time.monotonic() - due
        if delay > MIN_DELAY:
            file.add(delay)
        sample(loop, file)

    loop.call_later(SAMPLE_SECONDS, measure)


def probe(address: str, file: DelayFile, ended: threading.Event) -> None:
    """Ask for /health over one connection until `ended` is set."""
    connection = connect(address)
    while not ended.is_set():
        began = time.monotonic()
        connection.request("GET", "/health")
        connection.getresponse().read()
        seconds = time.monotonic() - began
        file.add(seconds)
        ended.wait(max(0.0, PROBE_SECONDS - seconds))
    connection.close()


def _serve_app(file: DelayFile, flags: list[str]) -> int:
    import uvicorn

    import app

    startup = uvicorn.Server.startup

    async def sampled_startup(server: uvicorn.Server, *args: Any, **kwargs: Any) -> None:
        sample(asyncio.get_running_loop(), file)
        await startup(server, *args, **kwargs)

    uvicorn.Server.startup = sampled_startup  # type: ignore[method-assign, assignment]
    return app.main(flags)


def _probe_until_input_ends(file: DelayFile, address: str) -> int:
    ended = threading.Event()

    def wait_for_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    probe(address, file, ended)
    return 0


def main(kind: str, path: str, *args: str) -> int:
    with delay_file(Path(path)) as file:
        if kind == "app":
            return _serve_app(file, list(args))
        return _probe_until_input_ends(file, args[0])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
