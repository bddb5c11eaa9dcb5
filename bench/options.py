"""The benchmark's flags. What is wrong with them is said in one sentence, with exit status 2."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.flags import Parser, at_least, folder, positive
from bench.workloads import ALL, NAMES, Workload

CHECKOUT = Path(__file__).parents[1]
PEERS = ("hf", "bnb", "llama.cpp", "vllm")
OURS = "ours"
VLLM_PYTHON = "LINLY_BENCH_VLLM_PYTHON"
ABOUT = "Measure this program beside others that serve the same model, turn by turn in one run."
EPILOG = (
    "Ours is always measured; `--peers ours` measures nothing else. hf: transformers + PEFT. bnb: "
    "bitsandbytes' LLM.int8. llama.cpp: its server, out of xllamacpp (requirements-bench.txt). "
    f"vllm: --vllm_python, or ${VLLM_PYTHON}, is the Python of an environment with vLLM."
)


@dataclass(frozen=True)
class Options:
    """What to measure. `base_model` None is the embedded default."""

    peers: tuple[str, ...]
    workloads: tuple[Workload, ...]
    rounds: int
    tokens: int
    json: bool
    chart: Path | None
    check: bool
    base_model: Path | None
    adapter: Path
    vllm_python: Path | None
    hf_dtype: str


def read_options(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Options:
    """Read `argv` (without the program's name).

    Raises:
        SystemExit: with status 2 where something is wrong, after saying what.
    """
    parser = _parser(os.environ if environ is None else environ)
    given = parser.given(argv)
    peers, workloads = given.pop("peers"), given.pop("workloads")
    return Options(peers=(OURS, *peers), workloads=workloads, **given)


def _parser(environ: Mapping[str, str]) -> Parser:
    parser = Parser(prog="bench/serve.py", description=ABOUT, epilog=EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("--peers", type=_peers, default=PEERS, metavar="A,B", help=f"of {', '.join(PEERS)}")
    add("--workloads", type=_workloads, default=ALL, metavar="A,B", help=f"of {', '.join(NAMES)}")
    add("--rounds", type=positive, default=3, metavar="N", help="turns of each peer (default 3)")
    add("--tokens", type=_several, default=64, metavar="N", help="tokens a reply (default 64)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--chart", type=_chart, metavar="FILE.png", help="draw the medians")
    add("--check", action="store_true", help="compare the servers' first tokens; measure nothing")
    add("--base_model", type=folder, metavar="FOLDER", help="default: the embedded default")
    add("--adapter", type=folder, default=CHECKOUT / "adapters" / "lighthouse", metavar="FOLDER",
        help="a PEFT LoRA folder, from which all adapters are made")  # fmt: skip
    add("--vllm_python", type=_program, default=environ.get(VLLM_PYTHON), metavar="PATH",
        help="the Python of vLLM's environment")  # fmt: skip
    add("--hf_dtype", choices=["auto", "bfloat16", "float32"], default="auto",
        help="what hf runs in; auto tries which is faster here")  # fmt: skip
    return parser


def _peers(text: str) -> tuple[str, ...]:
    chosen = _chosen(text, (*PEERS, OURS), "peer")
    return tuple(name for name in chosen if name != OURS)


def _workloads(text: str) -> tuple[Workload, ...]:
    chosen = _chosen(text, NAMES, "workload")
    return tuple(workload for workload in ALL if workload.name in chosen)


def _chosen(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """The words of a list with commas, each of them `known`, none twice."""
    names = [word.strip() for word in text.split(",") if word.strip()]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no {what} {name!r} (of {', '.join(known)})")
    if not names:
        raise argparse.ArgumentTypeError(f"name at least one {what} of {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def _several(text: str) -> int:
    return at_least(2, text)  # a speed needs two tokens


def _program(text: str) -> Path:
    if not os.access(text, os.X_OK) or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no program")
    return Path(text).absolute()  # not resolved: an environment's Python is a link


def _chart(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".png" or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no name for a .png in a folder that exists")
    return path
