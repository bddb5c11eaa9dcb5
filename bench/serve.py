"""Measures this program beside others that serve the same model, in one run.

`python bench/serve.py --peers hf,bnb,llama.cpp,vllm --json` starts each in a process of its own and
lets them take turns; it prints medians, and how many times as good this program is. `--help` lists
the flags. Exit status 1: this program, or another one that is installed, failed; 2: wrong use.
"""

from __future__ import annotations

import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import Figures, machine, script
from bench.peers.base import BenchFixtures, Peer
from bench.peers.hf import BitsAndBytes, HuggingFace
from bench.peers.llamacpp import LlamaCpp
from bench.peers.openai_client import OpenAIPeer
from bench.peers.this_program import ThisProgram
from bench.peers.vllm import Vllm
from bench.serving.equivalence import MAX_DISTANCE, distances
from bench.serving.fixtures import make_fixtures
from bench.serving.options import read_serve_options
from bench.serving.report import Results, draw_chart, table, to_json
from bench.serving.runner import RunningPeers, run_rounds, started_peers


@script
def main() -> int:
    options = read_serve_options(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        peers = make_peers(options, make_fixtures(options, Path(scratch)))
        with started_peers(peers) as running:
            return (compare_models if options.check else compare_speed)(running, options)


def make_peers(options: Namespace, fixtures: BenchFixtures) -> list[Peer]:
    """The peers that the flags name, this program first."""
    makers: dict[str, Callable[[], Peer]] = {
        "ours": lambda: ThisProgram(fixtures),
        "hf": lambda: HuggingFace(fixtures, options.hf_dtype),
        "bnb": lambda: BitsAndBytes(fixtures),
        "llama.cpp": lambda: LlamaCpp(fixtures),
        "vllm": lambda: Vllm(fixtures, options.vllm_python),
    }
    return [makers[name]() for name in options.peers]


def compare_speed(running: RunningPeers, options: Namespace) -> int:
    """Runs all rounds and prints the report; returns the exit status."""
    results = run_rounds(running, options)
    metrics = [metric for workload in options.workloads for metric in workload.metrics]
    if options.json:
        print(json.dumps({**_conditions(running, options), **to_json(results, metrics)}))
    else:
        print(table(results, metrics))
        print("\n".join(_notes(running, results, options)))
    if options.chart:
        draw_chart(results, metrics, options.chart, machine())
    return 1 if running.failed else 0


def compare_models(running: RunningPeers, options: Namespace) -> int:
    """`--check`; returns the exit status."""
    found = distances([peer for peer in running.peers if isinstance(peer, OpenAIPeer)])
    if options.json:
        print(json.dumps({"most": MAX_DISTANCE, "distances": found}))
    for name, distance in found.items():
        if not options.json:
            verdict = "the same model" if distance <= MAX_DISTANCE else "NOT the same model"
            print(f"{name}: {distance:.3f} nats from ours (at most {MAX_DISTANCE}): {verdict}")
    return 1 if running.failed or any(d > MAX_DISTANCE for d in found.values()) else 0


def _conditions(running: RunningPeers, options: Namespace) -> Figures:
    return {
        "machine": machine(),
        "rounds": options.rounds,
        "tokens": options.tokens,
        "peers": running.about,
        "skipped": running.skipped,
        "failed": running.failed,
    }


def _notes(running: RunningPeers, results: Results, options: Namespace) -> list[str]:
    """The lines below the table."""
    size = f"rounds: {options.rounds}; tokens a reply: {options.tokens}"
    lines = ["", f"Medians. vs: how many times as good ours is. {machine()}; {size}"]
    lines += [f"{name}: {running.about[name]}" for name in results.peers]
    lines += [f"{name} was skipped: {why}" for name, why in running.skipped.items()]
    return lines + [f"{name} failed: {why}" for name, why in running.failed.items()]


if __name__ == "__main__":
    sys.exit(main())
