"""This program beside others that serve the same model, in one run.

`python bench/serve.py --peers hf,bnb,llama.cpp,vllm --json` starts each in a process of its own and
lets them take turns; it prints medians, and how many times as good we are. `--help` has the rest.
Exit status 1: ours, or another that was there, failed; 2: wrong use.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.check import MOST, check
from bench.ending import end_cleanly
from bench.machine import machine
from bench.options import Options, read_options
from bench.peers.base import BenchFixtures, Peer, PeerError
from bench.peers.hf import BitsAndBytes, HuggingFace
from bench.peers.http_peer import HttpPeer
from bench.peers.llamacpp import LlamaCpp
from bench.peers.ours import Ours
from bench.peers.vllm import Vllm
from bench.report import Results, document, table
from bench.rounds import RunningPeers, run, started, to_stderr
from bench.stage import prepare


def main() -> int:
    options = read_options(sys.argv[1:])
    end_cleanly()
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        try:
            with started(make_peers(options, prepare(options, Path(scratch))), to_stderr) as cast:
                return compare(cast, options) if options.check else measure(cast, options)
        except PeerError as error:
            print(f"Nothing could be measured: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130  # as shells tell it


def make_peers(options: Options, stage: BenchFixtures) -> list[Peer]:
    """Those that were asked for, ours first."""
    known: dict[str, Callable[[], Peer]] = {
        "ours": lambda: Ours(stage),
        "hf": lambda: HuggingFace(stage, options.hf_dtype),
        "bnb": lambda: BitsAndBytes(stage),
        "llama.cpp": lambda: LlamaCpp(stage),
        "vllm": lambda: Vllm(stage, options.vllm_python),
    }
    return [known[name]() for name in options.peers]


def measure(cast: RunningPeers, options: Options) -> int:
    """Take turns, then report."""
    results = run(cast, options, to_stderr)
    metrics = [metric for workload in options.workloads for metric in workload.metrics]
    if options.json:
        print(json.dumps({**facts(cast, options), **document(results, metrics)}))
    else:
        print(table(results, metrics))
        print("\n".join(notes(cast, results, options)))
    if options.chart:
        from bench.chart import draw

        draw(results, metrics, options.chart, machine())
    return 1 if cast.failed else 0


def compare(cast: RunningPeers, options: Options) -> int:
    """`--check`."""
    found = check([peer for peer in cast.up if isinstance(peer, HttpPeer)])
    if options.json:
        print(json.dumps({"most": MOST, "distances": found}))
    for name, distance in found.items():
        if not options.json:
            verdict = "the same model" if distance <= MOST else "NOT the same model"
            print(f"{name}: {distance:.3f} nats from ours (at most {MOST}): {verdict}")
    return 1 if cast.failed or any(distance > MOST for distance in found.values()) else 0


def facts(cast: RunningPeers, options: Options) -> dict[str, Any]:
    """Under what conditions it was measured."""
    return {
        "machine": machine(),
        "rounds": options.rounds,
        "tokens": options.tokens,
        "peers": cast.about,
        "skipped": cast.skipped,
        "failed": cast.failed,
    }


def notes(cast: RunningPeers, results: Results, options: Options) -> list[str]:
    """What a reader of the table should know."""
    size = f"rounds: {options.rounds}; tokens a reply: {options.tokens}"
    lines = ["", f"Medians. vs: how many times as good ours is. {machine()}; {size}"]
    lines += [f"{name}: {cast.about[name]}" for name in results.peers]
    lines += [f"{name} was skipped: {why}" for name, why in cast.skipped.items()]
    return lines + [f"{name} failed: {why}" for name, why in cast.failed.items()]


if __name__ == "__main__":
    sys.exit(main())
