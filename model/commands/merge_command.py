"""`python -m model merge`: merges adapters into the weights of their base."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import Any

from model.folders.atomic_folder import check_destination, interruption_message
from model.program import interruptible
from model.progress_bar import bar
from model.types import MAX_ADAPTER_SCALE

DESCRIPTION = """\
Merge adapters into their base: the program adds the changes of each adapter to the weights and
writes a model folder that needs no adapter. Several adapters are merged in their order, each at its
own strength. While you want to choose between adapters, serve them unmerged; merge one for programs
without support for adapters, or if it cannot be served.
"""
DTYPES = {"auto": None, "bf16": "BF16", "fp16": "F16", "fp32": "F32"}


def add_to(commands: Any) -> None:
    command = commands.add_parser(
        "merge", help="merge adapters into the weights of their base", description=DESCRIPTION,
        allow_abbrev=False,
    )  # fmt: skip
    add = command.add_argument
    add(
        "--base_model", required=True, metavar="B",
        help="base model: a folder, a name in models/, a hub id, or smollm2-135m-instruct",
    )  # fmt: skip
    add(
        "--lora_model", required=True, nargs="+", metavar="A",
        help="one or more adapters in their order: folders, or names in adapters/",
    )  # fmt: skip
    add(
        "--output_dir",
        required=True,
        type=Path,
        metavar="O",
        help="folder to create for the merged model",
    )
    add(
        "--scale", type=_adapter_scale, nargs="+", default=[], metavar="S",
        help="strength of each adapter, in the same order (default: 1)",
    )  # fmt: skip
    add(
        "--dtype", choices=DTYPES, default="auto",
        help="type of the merged weights (default: auto, the base's own)",
    )  # fmt: skip
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    check_destination(options.output_dir)  # before seconds of imports
    from model.merge import merge
    from model.merge.planning import plan_merge

    destination: Path = options.output_dir
    try:
        with interruptible():
            plan = plan_merge(
                options.base_model, options.lora_model, options.scale, DTYPES[options.dtype]
            )
            statistics = merge(plan, destination, bar)
    except KeyboardInterrupt:
        print(interruption_message(destination), file=sys.stderr)
        return 1
    names = " and ".join(adapter.name for adapter in plan.adapters)
    since = "since the interruption " if statistics.partial else ""
    print(
        f"Merged {names} into {plan.base.name}: {since}{statistics.changed} of {statistics.layers} "
        f"layers changed, by {statistics.share:.1%} of their weights' length, and are now the "
        "model's own."
    )
    print(f"{destination} is ready: python app.py --base_model {shlex.quote(str(destination))}")
    return 0


def _adapter_scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < abs(value) <= MAX_ADAPTER_SCALE:
        message = f"{text!r} is not a strength (a number up to {MAX_ADAPTER_SCALE:g}, but not 0)"
        raise ArgumentTypeError(message)
    return value
