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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from platformdirs import user_cache_path

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import (
    Log,
    add_number,
    at_least,
    existing_folder,
    log_to_stderr,
    machine,
    print_figures,
    script,
    script_parser,
)
from bench.random_model import SIZES, Geometry, add_geometry, geometry_of
from bench.scaling.loading import measure_loading, weight_sizes
from bench.scaling.model import CONTEXT, check_memory, loaded_model, prepare_model
from bench.scaling.report import ScaleFigures, tables
from model.config.argument_parser import ArgumentParser
from model.config.settings import APP_NAME
from model.system_resources import available_cores
from model.types import SettingsError

LAYERS = 4
ABOUT = "What a large model costs here: loading, and decoding against the machine and llama.cpp."
EPILOG = (
    "Without --base_model, a model with random weights of these sizes is made and kept in the "
    "cache folder; there it takes four bytes a parameter on the disk, with what is made of it."
)


@dataclass(frozen=True)
class ScaleOptions:
    """What to measure. With `base_model` None, a random model of this `geometry`."""

    base_model: Path | None
    geometry: Geometry
    context: tuple[int, ...]
    users: tuple[int, ...]
    adapters: tuple[int, ...]
    steps: int
    llama_cpp: bool
    json: bool

    @property
    def most_users(self) -> int:
        return max(*self.users, *self.adapters)


def read_scale_options(argv: Sequence[str]) -> ScaleOptions:
    """Parses `argv`, without the program's name.

    Raises:
        SettingsError: a flag is wrong, or the sizes do not belong together.
    """
    args = _parser().read(argv)
    sizes = [name for name in SIZES if hasattr(args, name)]
    if sizes and args.base_model:
        raise SettingsError(
            f"--base_model has sizes of its own: leave out --{sizes[0]}", "See --help."
        )
    rest = {name: value for name, value in vars(args).items() if name not in SIZES}
    return ScaleOptions(geometry=geometry_of(args, LAYERS), **rest)


def _parser() -> ArgumentParser:
    parser = script_parser("scale", ABOUT, epilog=EPILOG)
    add = parser.add_argument
    add("--base_model", type=existing_folder, metavar="FOLDER", help="measure this model instead")
    add_geometry(parser, LAYERS)
    add("--context", type=_numbers(0), default=(0, 512, 2048), metavar="N,N",
        help="tokens before those that are measured (default: 0,512,2048)")  # fmt: skip
    add("--users", type=_numbers(1), default=(1, 2, 4, 8, 12, 16), metavar="N,N",
        help="users at the same time (default: 1,2,4,8,12,16)")  # fmt: skip
    add("--adapters", type=_numbers(0), default=(0, 1, 4, 12), metavar="N,N",
        help="adapters among the most users (default: 0,1,4,12)")  # fmt: skip
    add_number(parser, "steps", 16, "steps that a median is of")
    add("--llama_cpp", action="store_true", default=True,
        help="measure llama.cpp in turns with ours (default)")  # fmt: skip
    add("--no_llama_cpp", dest="llama_cpp", action="store_false", help="leave llama.cpp out")
    return parser


def _numbers(least: int) -> Callable[[str], tuple[int, ...]]:
    """The type of a flag that takes numbers with commas; they are sorted, none comes twice."""

    def parse(text: str) -> tuple[int, ...]:
        words = [word.strip() for word in text.split(",") if word.strip()]
        if not words:
            raise argparse.ArgumentTypeError("name at least one number")
        return tuple(sorted({at_least(least, word) for word in words}))

    return parse


@script
def main() -> int:
    options = read_scale_options(sys.argv[1:])
    cache = user_cache_path(APP_NAME)
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as scratch:
        figures = measure_scale(options, cache, Path(scratch), log_to_stderr)
    if options.json:
        return print_figures(asdict(figures), True, str)
    return print_figures(figures, False, tables)


def measure_scale(options: ScaleOptions, cache: Path, scratch: Path, log: Log) -> ScaleFigures:
    """Everything, in the order of the tables; what is made once is kept in `cache`.

    Raises:
        LinlyError: the model cannot be made or measured here, or a process failed.
    """
    model = prepare_model(options.base_model, options.geometry, cache, log)
    sizes = weight_sizes(model.folder)
    users = options.most_users
    needed = check_memory(model.folder.config, sizes[0], options.context, users)
    loading = measure_loading(model, sizes, scratch, log)
    threads, steps = available_cores(), options.steps

    # These import torch, which takes seconds; a wrong flag has been refused by now.
    from bench.scaling import decode
    from bench.scaling.memory_bandwidth import memory_reader

    with contextlib.ExitStack() as stack:
        baseline, about = None, "left out"
        if options.llama_cpp:
            log("llama.cpp …")
            baseline, about = stack.enter_context(
                decode.started_llama_cpp(model, sizes[0], needed, scratch, threads, steps)
            )
            log(f"  {about}")
        log("loading once more, to decode …")
        positions, is_cached = max(options.context), loading.cache is not None
        llama = stack.enter_context(loaded_model(model, is_cached, positions, users, threads))
        with memory_reader(threads) as reader:
            log("one user …")
            alone = decode.measure_single_user(llama, reader, baseline, about, steps)
        log("contexts …")
        contexts = decode.measure_contexts(llama, options.context, steps)
        log("users …")
        by_users = decode.measure_users(llama, options.users, steps)
        log("adapters …")
        adapters = decode.measure_adapters(llama, options.adapters, max(options.users), steps)
    return ScaleFigures(
        machine=machine(), model=model.about, threads=threads, steps=steps, behind=CONTEXT,
        loading=loading, alone=alone, contexts=contexts, users=by_users, adapters=adapters,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
