"""The flags of `bench/scale.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.flags import Parser, at_least, folder, positive
from bench.geometry import NAMES, Geometry, add_geometry, geometry_of

LAYERS = 4
BEHIND = 128  # tokens of each user where it is not the context that is measured
ABOUT = "What a large model costs here: loading, and decoding against the machine and llama.cpp."
EPILOG = (
    "Without --base_model, a model with random weights of these sizes is made and kept in the "
    "cache folder; there it takes four bytes a parameter on the disk, with what is made of it."
)


@dataclass(frozen=True)
class Options:
    """What to measure. `base_model` None is a random model of this `geometry`."""

    base_model: Path | None
    geometry: Geometry
    context: tuple[int, ...]
    users: tuple[int, ...]
    adapters: tuple[int, ...]
    steps: int
    llama_cpp: bool
    json: bool


def read_options(argv: Sequence[str]) -> Options:
    """Read `argv` (without the program's name).

    Raises:
        SystemExit: with status 2 where a flag is wrong, after saying what.
        SettingsError: the sizes do not belong together.
    """
    parser = _parser()
    given = parser.given(argv)
    sizes = {name: given.pop(name) for name in NAMES if name in given}
    if sizes and given["base_model"]:
        parser.error(f"--base_model has sizes of its own: leave out --{next(iter(sizes))}")
    return Options(geometry=geometry_of(sizes, LAYERS), **given)


def _parser() -> Parser:
    parser = Parser(prog="bench/scale.py", description=ABOUT, epilog=EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("--base_model", type=folder, metavar="FOLDER", help="a model folder to measure instead")
    add_geometry(parser, LAYERS)
    add("--context", type=_each(partial(at_least, 0)), default=(0, 512, 2048), metavar="N,N",
        help="tokens before those that are measured (default: 0,512,2048)")  # fmt: skip
    add("--users", type=_each(positive), default=(1, 2, 4, 8, 12, 16), metavar="N,N",
        help="users at the same time (default: 1,2,4,8,12,16)")  # fmt: skip
    add("--adapters", type=_each(partial(at_least, 0)), default=(0, 1, 4, 12), metavar="N,N",
        help="adapters among the most users (default: 0,1,4,12)")  # fmt: skip
    add("--steps", type=positive, default=16, metavar="N",
        help="steps that a median is of (default: 16)")  # fmt: skip
    add("--llama_cpp", action="store_true", default=True,
        help="measure llama.cpp in turns with ours (default)")  # fmt: skip
    add("--no_llama_cpp", dest="llama_cpp", action="store_false", help="leave llama.cpp out")
    add("--json", action="store_true", help="print JSON instead of tables")
    return parser


def _each(read: Callable[[str], int]) -> Callable[[str], tuple[int, ...]]:
    """Reads a list with commas, the numbers in order and none twice."""

    def read_all(text: str) -> tuple[int, ...]:
        words = [word.strip() for word in text.split(",") if word.strip()]
        if not words:
            raise argparse.ArgumentTypeError("name at least one number")
        return tuple(sorted({read(word) for word in words}))

    return read_all
