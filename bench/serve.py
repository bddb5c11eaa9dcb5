"""Measures this program beside others that serve the same model, in one run.

`python bench/serve.py --peers hf,bnb,llama.cpp,vllm --json` starts each in a process of its own and
lets them take turns; it prints medians, and how many times as good this program is. `--help` lists
the flags. Exit status 1: this program, or another one that is installed, failed; 2: wrong use.

`--check` compares the models instead, because a comparison needs equal ones: each server reports
the likeliest first tokens of some replies, on the base and on adapters, and their log probabilities
are compared with this program's. llama.cpp's Q8_0, which rounds activations too, differs by 0.1
nats. With the rows of q and k in the wrong order it was 0.7, with those of the adapters alone 0.5.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from bench.peers.base import THIS_PROGRAM, BenchFixtures, Peer, Question, Turn
from bench.peers.hf import BitsAndBytes, HuggingFace
from bench.peers.llamacpp import LlamaCpp
from bench.peers.openai_peers import OpenAIPeer, ThisProgram, Vllm
from bench.serving.fixtures import make_fixtures
from bench.serving.report import Results, draw_chart, table, to_json
from bench.serving.runner import RunningPeers, run_rounds, started_peers
from bench.serving.workloads import ALL, NAMES
from model.config.argument_parser import ArgumentParser
from model.config.settings import CHECKOUT

PEERS = ("hf", "bnb", "llama.cpp", "vllm")
VLLM_PYTHON = "LINLY_BENCH_VLLM_PYTHON"
ABOUT = "Measure this program beside others that serve the same model, turn by turn in one run."
EPILOG = (
    "Ours is always measured; `--peers ours` measures nothing else. hf: transformers + PEFT. bnb: "
    "bitsandbytes' LLM.int8. llama.cpp: its server, out of xllamacpp (requirements-bench.txt). "
    f"vllm: --vllm_python, or ${VLLM_PYTHON}, is the Python of an environment with vLLM."
)
MAX_DISTANCE = 0.25  # nats
TOP_TOKENS = 5
CHECKED_ADAPTERS = (0, 1, 2)
CHECKED_TEXTS = (
    "Who are you?",
    "What is the capital of France?",
    "Write a short story about a dog.",
    "How do I make bread?",
    "Why is the sea salty?",
)


@common.script
def main() -> int:
    options = read_serve_options(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        peers = make_peers(options, make_fixtures(options, Path(scratch)))
        with started_peers(peers) as running:
            return (compare_models if options.check else compare_speed)(running, options)


def read_serve_options(
    argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """Parses `argv`, without the program's name.

    Returns:
        The flags by name. `peers` are names, this program's first; `workloads` are Workloads;
        `base_model` None selects the embedded default.

    Raises:
        SettingsError: a flag or its value is wrong.
    """
    args = _parser(os.environ if environ is None else environ).read(argv)
    args.peers = tuple(dict.fromkeys((THIS_PROGRAM, *args.peers)))
    args.workloads = tuple(workload for workload in ALL if workload.name in args.workloads)
    return args


def _parser(environ: Mapping[str, str]) -> ArgumentParser:
    parser = common.script_parser("serve", ABOUT, rounds=3, epilog=EPILOG)
    add, folder = parser.add_argument, common.existing_folder
    common.add_names(parser, "peers", PEERS, "peer", also=(THIS_PROGRAM,))
    common.add_names(parser, "workloads", NAMES, "workload")
    common.add_number(parser, "tokens", 64, "tokens of a reply", minimum=2)  # a speed needs two
    add(
        "--chart",
        type=_png_file,
        metavar="FILE.png",
        help="chart of the medians to draw (default: none)",
    )
    add("--check", action="store_true", help="only compare the first tokens of the servers")
    add(
        "--base_model",
        type=folder,
        metavar="FOLDER",
        help="base model (default: smollm2-135m-instruct)",
    )
    add("--adapter", type=folder, default=CHECKOUT / "adapters" / "lighthouse",
        metavar="FOLDER",
        help="PEFT LoRA folder from which all adapters are made (default: lighthouse)")  # fmt: skip
    add("--vllm_python", type=_executable, default=environ.get(VLLM_PYTHON), metavar="PATH",
        help="Python of the vLLM environment (default: $LINLY_BENCH_VLLM_PYTHON)")  # fmt: skip
    add("--hf_dtype", choices=["auto", "bfloat16", "float32"], default="auto",
        help="type in which transformers computes (default: auto, the faster one)")  # fmt: skip
    return parser


def _executable(text: str) -> Path:
    if not os.access(text, os.X_OK) or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a program")
    return Path(text).absolute()  # not resolved: an environment's Python is a link


def _png_file(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".png" or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text} is not the name of a .png in a folder that exists"
        )
    return path


def make_peers(options: Namespace, fixtures: BenchFixtures) -> list[Peer]:
    """The peers that the flags name, this program first."""
    makers: dict[str, Callable[[], Peer]] = {
        THIS_PROGRAM: lambda: ThisProgram(fixtures),
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
    conditions = {
        "machine": common.machine(),
        "rounds": options.rounds,
        "tokens": options.tokens,
        "peers": running.about,
        "skipped": running.skipped,
        "failed": running.failed,
    }
    if options.json:
        print(json.dumps({**conditions, **to_json(results, metrics)}))
    else:
        print(table(results, metrics))
        print("\n".join(_notes(running, results, options)))
    if options.chart:
        draw_chart(results, metrics, options.chart, common.machine())
    return 1 if running.failed else 0


def _notes(running: RunningPeers, results: Results, options: Namespace) -> list[str]:
    """The lines below the table."""
    size = f"rounds: {options.rounds}; tokens a reply: {options.tokens}"
    lines = ["", f"Medians. vs: how many times as good ours is. {common.machine()}; {size}"]
    lines += [f"{name}: {running.about[name]}" for name in results.peers]
    lines += [f"{name} was skipped: {why}" for name, why in running.skipped.items()]
    return lines + [f"{name} failed: {why}" for name, why in running.failed.items()]


def compare_models(running: RunningPeers, options: Namespace) -> int:
    """`--check`; returns the exit status."""
    found = logprob_distances([peer for peer in running.peers if isinstance(peer, OpenAIPeer)])
    if options.json:
        print(json.dumps({"most": MAX_DISTANCE, "distances": found}))
    for name, nats in found.items():
        if not options.json:
            verdict = "the same model" if nats <= MAX_DISTANCE else "NOT the same model"
            print(f"{name}: {nats:.3f} nats from ours (at most {MAX_DISTANCE}): {verdict}")
    return 1 if running.failed or any(d > MAX_DISTANCE for d in found.values()) else 0


def logprob_distances(peers: Sequence[OpenAIPeer]) -> dict[str, float]:
    """Each other peer's distance to this program in nats: the larger of base and adapters."""
    replies = {peer.name: _first_tokens(peer) for peer in peers}
    own = replies.pop(THIS_PROGRAM)
    return {
        name: max(median(map(logprob_distance, *groups)) for groups in zip(own, found, strict=True))
        for name, found in replies.items()
    }


def logprob_distance(expected: dict[str, float], found: dict[str, float]) -> float:
    """The mean difference over the tokens that both list; infinite if there are none."""
    both = expected.keys() & found.keys()
    return mean(abs(expected[token] - found[token]) for token in both) if both else float("inf")


def _first_tokens(peer: OpenAIPeer) -> list[list[dict[str, float]]]:
    """The likeliest first tokens of each text's reply, on the base and on the adapters."""
    with peer.awake():
        return [
            [
                peer.first_token(Question((Turn("user", text),), 1, adapter), TOP_TOKENS)
                for adapter in adapters
                for text in CHECKED_TEXTS
            ]
            for adapters in ((None,), CHECKED_ADAPTERS)
        ]


if __name__ == "__main__":
    sys.exit(main())
