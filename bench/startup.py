"""Measures how long it takes until the page and the model answer, and the memory that this needs.

`python bench/startup.py [--runs N] [--json]` starts `app.py` that many times, with the embedded
default in the cache, and reports medians: seconds, and megabytes of resident memory at the peak.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from model.config.settings import CHECKOUT

POLL_SECONDS = 0.05
MAX_SECONDS = 120
QUESTION = {
    "messages": [{"role": "user", "content": "Write a short story about the sea."}],
    "max_tokens": 100,
    "temperature": 0,
}


@common.script
def main() -> int:
    parser = common.script_parser("startup", __doc__)
    common.add_number(parser, "runs", 3)
    args = parser.read(sys.argv[1:])
    runs = [measure_startup() for _ in range(args.runs)]
    figures = {"medians": common.medians(runs, 2), "runs": runs}
    return common.print_figures(figures, args.json, table)


def table(figures: common.Figures) -> str:
    return common.format_table([[key, f"{value}"] for key, value in figures["medians"].items()])


def measure_startup() -> dict[str, float]:
    """Start the program, wait until it is ready, ask one question over HTTP, and end it.

    Returns:
        Seconds until the `page` answers and until the model is `ready`, the speed of decoding, and
        the peak memory in MB.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--server_port", "0"],
        cwd=CHECKOUT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout  # noqa: S101 (a pipe)
        address = process.stdout.readline().split()[2]
        page = _seconds_until_ok(f"{address}/", began)
        ready = _seconds_until_ok(f"{address}/health", began)
        sent = time.monotonic()
        answer = httpx.post(f"{address}/v1/chat/completions", json=QUESTION, timeout=MAX_SECONDS)
        speed = answer.json()["usage"]["completion_tokens"] / (time.monotonic() - sent)
        peak = common.peak_bytes(process.pid) / 1e6
        return {"page": page, "ready": ready, "tokens_per_second": speed, "peak_megabytes": peak}
    finally:
        process.terminate()
        process.wait()


def _seconds_until_ok(url: str, began: float) -> float:
    """Seconds from `began` until `url` answers with 200."""
    while time.monotonic() - began < MAX_SECONDS:
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=MAX_SECONDS).status_code == httpx.codes.OK:
                return time.monotonic() - began
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"{url} did not answer")


if __name__ == "__main__":
    sys.exit(main())
