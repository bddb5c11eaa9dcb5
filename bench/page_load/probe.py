"""Asks a server for /health again and again: `python probe.py ADDRESS FILE`, until its input ends.

In a process of its own, so that nothing which the measurement does delays it. Each answer becomes a
line of FILE (see `late`), with the seconds that it took.
"""

from __future__ import annotations

import http.client
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.page_load.late import LateFile

STEP = 0.005  # seconds from one question to the next


def main() -> int:
    address, path = sys.argv[1:]
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    with LateFile(Path(path)) as file:
        probe(address, file, ended)
    return 0


def probe(address: str, file: LateFile, ended: threading.Event) -> None:
    """Ask until `ended`, over one connection."""
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    while not ended.is_set():
        began = time.monotonic()
        connection.request("GET", "/health")
        connection.getresponse().read()
        took = time.monotonic() - began
        file.add(took)
        ended.wait(max(0.0, STEP - took))
    connection.close()


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    sys.exit(main())
