"""Measures what a large model costs on this machine: loading, and what makes decoding slower.

`python bench/scale.py [--layers N] [--base_model FOLDER] [--json]` makes a random model of
Open-Linly-13B's geometry with a few of its layers (all cost alike), and prints tables. `--help`
lists the flags. Exit status 1: something failed; 2: wrong use.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from platformdirs import user_cache_path

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from bench.errors import BenchError
from bench.random_model import SIZES, add_geometry, geometry_of
from bench.scaling.loading import measure_loading, weight_sizes
from bench.scaling.model import CONTEXT, check_memory, loaded_model, prepare_model
from bench.scaling.report import ScaleFigures, tables
from model.config.argument_parser import ArgumentParser
from model.config.settings import APP_NAME
from model.system_resources import available_cores

LAYERS = 4
ABOUT = "What a large model costs here: loading, and decoding against the machine and llama.cpp."
EPILOG = (
    "Without --base_model, a model with random weights of these sizes is made and kept in the "
    "cache folder; there it takes four bytes a parameter on the disk, with what is made of it."
)


def read_scale_options(argv: Sequence[str]) -> argparse.Namespace:
    """Parses `argv`, without the program's name.

    Returns:
        The flags by name, and the `geometry` of a random model, which is measured if `base_model`
        is None.

    Raises:
        SettingsError: a flag is wrong.
        BenchError: the sizes do not belong together, or the model has sizes of its own.
    """
    args = _parser().read(argv)
    sizes = [name for name in SIZES if hasattr(args, name)]
    if sizes and args.base_model:
        raise BenchError(
            f"--base_model has sizes of its own: leave out --{sizes[0]}", "See --help."
        )
    args.geometry = geometry_of(args, LAYERS)
    return args


def _parser() -> ArgumentParser:
    parser = common.script_parser("scale", ABOUT, epilog=EPILOG)
    add = parser.add_argument
    add(
        "--base_model",
        type=common.existing_folder,
        metavar="FOLDER",
        help="model to measure (default: a random model of the size below)",
    )
    add_geometry(parser, LAYERS)
    add("--context", type=partial(_numbers, 0), default=(0, 512, 2048), metavar="N,N",
        help="tokens in the context before the measured ones (default: 0,512,2048)")  # fmt: skip
    add("--users", type=partial(_numbers, 1), default=(1, 2, 4, 8, 12, 16), metavar="N,N",
        help="users at the same time (default: 1,2,4,8,12,16)")  # fmt: skip
    add("--adapters", type=partial(_numbers, 0), default=(0, 1, 4, 12), metavar="N,N",
        help="adapters at the largest number of users (default: 0,1,4,12)")  # fmt: skip
    common.add_number(parser, "steps", 16, "steps per median")
    add("--llama_cpp", action="store_true", default=True,
        help="measure llama.cpp in turn with this program (default)")  # fmt: skip
    add("--no_llama_cpp", dest="llama_cpp", action="store_false", help="do not measure llama.cpp")
    return parser


def _numbers(least: int, text: str) -> tuple[int, ...]:
    """Parses numbers with commas between them; they are sorted, and repeated ones count once."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError("name at least one number")
    return tuple(sorted({common.at_least(least, word) for word in words}))


@common.script
def main() -> int:
    options = read_scale_options(sys.argv[1:])
    cache = user_cache_path(APP_NAME)
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        figures = measure_scale(options, cache, Path(scratch))
    return common.print_figures(asdict(figures), options.json, lambda _: tables(figures))


def measure_scale(options: argparse.Namespace, cache: Path, scratch: Path) -> ScaleFigures:
    """Everything, in the order of the tables; what is made once is kept in `cache`.

    Raises:
        LinlyError: the model cannot be made or measured here, or a process failed.
    """
    model = prepare_model(options.base_model, options.geometry, cache)
    sizes = weight_sizes(model.folder)
    users = max(*options.users, *options.adapters)
    needed = check_memory(model.folder.config, sizes[0], options.context, users)
    loading = measure_loading(model, sizes, scratch)
    threads, steps = available_cores(), options.steps

    # These import torch, which takes seconds; a wrong flag has been refused by now.
    from bench.scaling import decode
    from bench.scaling.memory_bandwidth import memory_reader

    with contextlib.ExitStack() as stack:
        baseline, about = None, "left out"
        if options.llama_cpp:
            common.log("llama.cpp …")
            baseline, about = stack.enter_context(
                decode.started_llama_cpp(model, sizes[0], needed, scratch, threads, steps)
            )
            common.log(f"  {about}")
        common.log("loading once more, to decode …")
        positions, is_cached = max(options.context), loading.cache is not None
        llama = stack.enter_context(loaded_model(model, is_cached, positions, users, threads))
        with memory_reader(threads) as reader:
            common.log("one user …")
            alone = decode.measure_single_user(llama, reader, baseline, about, steps)
        common.log("contexts …")
        contexts = decode.measure_contexts(llama, options.context, steps)
        common.log("users …")
        by_users = decode.measure_users(llama, options.users, steps)
        common.log("adapters …")
        adapters = decode.measure_adapters(llama, options.adapters, max(options.users), steps)
    return ScaleFigures(
        machine=common.machine(), model=model.about, threads=threads, steps=steps, behind=CONTEXT,
        loading=loading, alone=alone, contexts=contexts, users=by_users, adapters=adapters,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
