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
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import common
from bench.common import format_number, format_ratio, format_table
from bench.random_model import SIZES, add_geometry, geometry_of
from bench.scaling.loading import Loading, measure_loading, weight_sizes
from bench.scaling.model import (
    CONTEXT,
    check_memory,
    loaded_model,
    prepare_model,
    started_llama_cpp,
)
from model.config.argument_parser import ArgumentParser
from model.config.settings import APP_NAME
from model.system_resources import available_cores

if TYPE_CHECKING:
    from bench.scaling.decode import Row, SingleUser

Cells = Sequence[Sequence[str]]

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
        raise common.BenchError(
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


def _numbers(minimum: int, text: str) -> tuple[int, ...]:
    """Parses numbers with commas between them; they are sorted, and repeated ones count once."""
    words = common.split_list(text, "number")
    return tuple(sorted({common.at_least(minimum, word) for word in words}))


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
    loading = measure_loading(model, sizes)
    threads, steps = available_cores(), options.steps

    # These import torch, which takes seconds; a wrong flag has been refused by now.
    from bench.scaling import decode

    with contextlib.ExitStack() as stack:
        baseline, about = None, "left out"
        if options.llama_cpp:
            common.log("llama.cpp …")
            baseline, about = stack.enter_context(
                started_llama_cpp(model, sizes[0], needed, scratch, threads, steps)
            )
            common.log(f"  {about}")
        common.log("loading once more, to decode …")
        positions, is_cached = max(options.context), loading.cache is not None
        llama = stack.enter_context(loaded_model(model, is_cached, positions, users, threads))
        with contextlib.closing(decode.MemoryReader(threads)) as reader:
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


@dataclass(frozen=True)
class ScaleFigures:
    """Everything, with the conditions. Times are medians.

    `contexts` are about one user after `context` tokens: milliseconds of a token, and tokens a
    second of the prefill that follows. `users` and `adapters` are about a step in which each user
    gets a token after `behind` others; 0 adapters is the base alone.
    """

    machine: str
    model: str
    threads: int
    steps: int
    behind: int
    loading: Loading
    alone: SingleUser
    contexts: list[Row]
    users: list[Row]
    adapters: list[Row]


def tables(figures: ScaleFigures) -> str:
    """A table for each thing measured, and the conditions below them."""
    behind = f"{figures.behind} tokens behind each"
    step = ("ms a step", "tokens/s")
    return "\n".join([
        _table("Loading, each in a process of its own", _loading(figures.loading)),
        _table(f"One user, {behind}", _single_user(figures.alone)),
        *_shares(figures.alone),
        _table("One user, against the context",
               _cells(figures.contexts, "tokens before", "ms a token", "prefill tokens/s")),
        _table(f"Users on the base, {behind}", _cells(figures.users, "users", *step)),
        _table(f"Adapters of rank 16 on all modules, {behind}",
               _cells(figures.adapters, "adapters", "users", *step)),
        f"Medians; GB are 10^9 bytes. {figures.machine}, {figures.threads} threads; "
        f"{figures.model}; steps: {figures.steps}",
    ])  # fmt: skip


def _table(title: str, cells: Cells) -> str:
    return f"{title}\n{indent(format_table(cells), '  ')}\n"


def _cells(rows: Sequence[Row], *header: str) -> Cells:
    """The header and the rows' values; those that are counts are integers."""
    values = [
        [str(value) if isinstance(value, int) else format_number(value) for value in row.values()]
        for row in rows
    ]
    return [header, *values]


def _loading(loading: Loading) -> Cells:
    rows = [["", "s", "peak GB", "at most GB", ""]]
    bound = _gigabytes(loading.bound_bytes)
    for title, cost in (
        ("from the model's files", loading.source),
        ("from the cache of int8 weights", loading.cache),
    ):
        if cost is None:
            missing = format_number(None)
            rows.append([title, missing, missing, bound, "there was no room to keep it"])
        else:
            verdict = "" if cost.in_bounds else "MORE THAN IT MAY"
            figures = format_number(cost.seconds), _gigabytes(cost.peak_bytes)
            rows.append([title, *figures, bound, verdict])
    return rows


def _single_user(user: SingleUser) -> Cells:
    return [
        ("", "ms a token", "tokens/s"),
        *(
            (name, format_number(ms), format_number(1000 / ms))
            for name, ms in (("ours", user.ms), ("llama.cpp", user.llama_cpp_ms))
            if ms
        ),
    ]


def _shares(user: SingleUser) -> list[str]:
    lines = [
        f"  A token reads {_gigabytes(user.bytes_a_token)} GB of weights, so ours reads "
        f"{_gigabytes(user.reads)} GB/s: {100 * user.share:.0f}% of the "
        f"{_gigabytes(user.machine_reads)} GB/s that this machine was seen to read."
    ]
    if user.times_as_fast:
        lines.append(f"  Ours is {format_ratio(user.times_as_fast)} as fast as llama.cpp.")
    return [*lines, f"  llama.cpp: {user.llama_cpp}", ""]


def _gigabytes(nbytes: float) -> str:
    return format_number(nbytes / 1e9)


if __name__ == "__main__":
    sys.exit(main())
