"""A model folder of any size with random weights: what large models cost, without their files.

`python bench/random_model.py FOLDER [--layers N …]` writes float16 weights in safetensors shards,
config.json and a tokenizer; the default geometry is Open-Linly-13B's. Memory stays below 1 GB.

The weights are not as random as they look: all matrices are read off one block of 2^24 normal
numbers (standard deviation 0.02), each from a random place on and round and round. No two rows of a
matrix are alike, and what a multiplication costs does not depend on the numbers. Norms are 1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ending import end_cleanly
from bench.flags import Parser, at_least
from bench.geometry import Geometry, add_geometry, geometry_of
from bench.random_tokenizer import write_tokenizer
from bench.rounds import Say, to_stderr
from model.folders.atomic_folder import new_folder
from model.folders.weight_writer import nbytes_of, write_weights
from model.folders.weights import LazyTensor
from model.types import LinlyError

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_VALUES = 16_777_213  # the largest prime below 2^24: no row's width has a part in it
SPREAD = 0.02  # activations stay finite through 40 layers

Block = npt.NDArray[np.float16]


def main() -> int:
    end_cleanly()
    try:
        given = _parser().given(sys.argv[1:])
        geometry = geometry_of(given, Geometry.layers)
        write_model(given["folder"], geometry, given["seed"], to_stderr)
    except LinlyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130  # as shells tell it
    return 0


def _parser() -> Parser:
    about = (__doc__ or "").split("\n\n")[0]
    parser = Parser(prog="bench/random_model.py", description=about, allow_abbrev=False)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="to be made")
    add_geometry(parser, Geometry.layers)
    parser.add_argument(
        "--seed", type=partial(at_least, 0), default=0, metavar="N", help="default: 0"
    )
    return parser


def write_model(folder: Path, geometry: Geometry, seed: int, say: Say) -> None:
    """Write the model; `folder` appears whole or not at all. `say` is told how far it is.

    Raises:
        ModelFolderError: there is `folder` already, or no room on its disk.
    """
    tensors = list(random_tensors(geometry, seed))
    recipe = {"random": seed, "config": geometry.config()}
    with new_folder(folder, recipe, nbytes_of(tensors)) as scratch:
        write_tokenizer(scratch, geometry.vocab)
        text = json.dumps(geometry.config(), indent=2)
        (scratch / "config.json").write_text(text, encoding="utf-8")
        write_weights(tensors, scratch, _tenths(f"writing {folder.name}", say))


def _tenths(what: str, say: Say) -> Callable[[float], None]:
    """Says each tenth of the way once."""
    told = 0

    def progress(share: float) -> None:
        nonlocal told
        if int(share * 10) > told:
            told = int(share * 10)
            say(f"{what}: {told}0% …")

    return progress


def random_tensors(geometry: Geometry, seed: int) -> Iterator[LazyTensor]:
    """The model's tensors, in the order of the layers."""
    random = np.random.default_rng(seed)
    block = (random.standard_normal(BLOCK_VALUES, np.float32) * SPREAD).astype(np.float16)
    for name, shape in geometry.tensors():
        place = int(random.integers(BLOCK_VALUES))
        read = partial(_values, shape, None if "norm" in name else place, block)
        yield LazyTensor(name, "F16", shape, read)


def _values(shape: tuple[int, ...], place: int | None, block: Block) -> Tensor:
    """Ones, or the block from `place` on and then again and again."""
    import torch

    if place is None:
        return torch.ones(shape, dtype=torch.float16)
    values, at = np.empty(prod(shape), np.float16), 0
    while at < len(values):
        piece = block[place : place + len(values) - at]
        values[at : at + len(piece)] = piece
        at, place = at + len(piece), 0
    return torch.from_numpy(values).view(shape)


if __name__ == "__main__":
    sys.exit(main())
