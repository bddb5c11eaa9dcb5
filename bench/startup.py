"""How long until the page answers and until the model does, and what memory that takes.

`python bench/startup.py [--runs N] [--json]` starts `app.py` that many times, with the embedded
default in the cache, and reports medians. Seconds; megabytes of resident memory at the peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.machine import peak_bytes

CHECKOUT = Path(__file__).parents[1]
POLL_SECONDS = 0.05
MAX_SECONDS = 120
QUESTION = {
    "messages": [{"role": "user", "content": "Write a short story about the sea."}],
    "max_tokens": 100,
    "temperature": 0,
}


@dataclass(frozen=True)
class Run:
    """One start: seconds until the page, until ready; decode speed; peak memory in MB."""

    page: float
    ready: float
    tokens_per_second: float
    peak_megabytes: float


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    runs = [measure() for _ in range(options.runs)]
    medians = {
        key: round(statistics.median(asdict(run)[key] for run in runs), 2)
        for key in asdict(runs[0])
    }
    if options.json:
        print(json.dumps({"medians": medians, "runs": [asdict(run) for run in runs]}))
    else:
        for key, value in medians.items():
            print(f"{key:20} {value:10}")
    return 0


def measure() -> Run:
    """Start, wait, ask once over HTTP, end."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--server_port", "0"],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = _address(process)
        page = _until(f"{address}/", began)
        ready = _until(f"{address}/health", began)
        asked = time.monotonic()
        answer = httpx.post(f"{address}/v1/chat/completions", json=QUESTION, timeout=MAX_SECONDS)
        seconds = time.monotonic() - asked
        tokens = answer.json()["usage"]["completion_tokens"]
        return Run(page, ready, tokens / seconds, peak_bytes(process.pid) / 1e6)
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        raise RuntimeError("the program's output is not to be had")
    return process.stdout.readline().split()[2]


def _until(url: str, began: float) -> float:
    """Seconds from `began` until `url` answers with 200."""
    while time.monotonic() - began < MAX_SECONDS:
        try:
            if httpx.get(url, timeout=MAX_SECONDS).status_code == httpx.codes.OK:
                return time.monotonic() - began
        except httpx.TransportError:
            pass
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"{url} did not answer")


if __name__ == "__main__":
    sys.exit(main())
