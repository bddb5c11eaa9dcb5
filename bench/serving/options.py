"""The flags of `bench/serve.py`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.common import add_names, add_number, existing_folder, script_parser
from bench.peers.base import THIS_PROGRAM
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
    parser = script_parser("serve", ABOUT, rounds=3, epilog=EPILOG)
    add = parser.add_argument
    add_names(parser, "peers", PEERS, "peer", also=(THIS_PROGRAM,))
    add_names(parser, "workloads", NAMES, "workload")
    add_number(parser, "tokens", 64, "tokens of a reply", least=2)  # a speed needs two tokens
    add(
        "--chart",
        type=_png_file,
        metavar="FILE.png",
        help="chart of the medians to draw (default: none)",
    )
    add("--check", action="store_true", help="only compare the first tokens of the servers")
    add(
        "--base_model",
        type=existing_folder,
        metavar="FOLDER",
        help="base model (default: smollm2-135m-instruct)",
    )
    add("--adapter", type=existing_folder, default=CHECKOUT / "adapters" / "lighthouse",
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
        raise argparse.ArgumentTypeError(f"{text} is not the name of a .png in an existing folder")
    return path
