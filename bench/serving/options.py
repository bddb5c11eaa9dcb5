"""The flags of `bench/serve.py`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.common import add_number, comma_list, existing_folder, script_parser
from bench.peers.base import THIS_PROGRAM
from bench.serving.workloads import ALL, NAMES, Workload
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


@dataclass(frozen=True)
class ServeOptions:
    """What to measure. `base_model` None selects the embedded default."""

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


def read_serve_options(
    argv: Sequence[str], environ: Mapping[str, str] | None = None
) -> ServeOptions:
    """Parses `argv`, without the program's name.

    Raises:
        SettingsError: a flag or its value is wrong.
    """
    args = vars(_parser(os.environ if environ is None else environ).read(argv))
    names = args.pop("workloads")
    return ServeOptions(
        peers=tuple(dict.fromkeys((THIS_PROGRAM, *args.pop("peers")))),
        workloads=tuple(workload for workload in ALL if workload.name in names),
        **args,
    )


def _parser(environ: Mapping[str, str]) -> ArgumentParser:
    parser = script_parser("serve", ABOUT, rounds=3, epilog=EPILOG)
    add = parser.add_argument
    add("--peers", type=_peers, default=PEERS, metavar="A,B", help=f"of {', '.join(PEERS)}")
    add("--workloads", type=_workloads, default=NAMES, metavar="A,B", help=f"of {', '.join(NAMES)}")
    add_number(parser, "tokens", 64, "tokens of a reply", least=2)  # a speed needs two tokens
    add("--chart", type=_png_file, metavar="FILE.png", help="draw the medians")
    add("--check", action="store_true", help="compare the servers' first tokens; measure nothing")
    add(
        "--base_model", type=existing_folder, metavar="FOLDER", help="default: the embedded default"
    )
    add("--adapter", type=existing_folder, default=CHECKOUT / "adapters" / "lighthouse",
        metavar="FOLDER", help="a PEFT LoRA folder, from which all adapters are made")  # fmt: skip
    add("--vllm_python", type=_executable, default=environ.get(VLLM_PYTHON), metavar="PATH",
        help="the Python of vLLM's environment")  # fmt: skip
    add("--hf_dtype", choices=["auto", "bfloat16", "float32"], default="auto",
        help="what hf computes in; auto tries which is faster here")  # fmt: skip
    return parser


def _peers(text: str) -> tuple[str, ...]:
    return comma_list(text, (*PEERS, THIS_PROGRAM), "peer")


def _workloads(text: str) -> tuple[str, ...]:
    return comma_list(text, NAMES, "workload")


def _executable(text: str) -> Path:
    if not os.access(text, os.X_OK) or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no program")
    return Path(text).absolute()  # not resolved: an environment's Python is a link


def _png_file(text: str) -> Path:
    path = Path(text)
    if path.suffix != ".png" or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no name for a .png in a folder that exists")
    return path
