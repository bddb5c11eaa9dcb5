"""A model folder of any size with random weights: what large models cost, without their files.

`python bench/random_model.py FOLDER [--layers N …]` writes float16 weights in safetensors shards,
config.json and a tokenizer; the default geometry is Open-Linly-13B's. Memory stays below 200 MB.

The weights are not as random as they look: all matrices are read off one block of 2^24 normal
numbers (standard deviation 0.02), each from a random place on and round and round. No two rows of a
matrix are alike, and what a multiplication costs does not depend on the numbers. Norms are 1.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.ending import end_cleanly
from bench.flags import Parser, at_least, gigabytes
from bench.geometry import FLOAT16_BYTES, Geometry, add_geometry, geometry_of
from bench.random_tokenizer import write_tokenizer
from bench.rounds import Say, to_stderr
from model.convert import whole_or_nothing
from model.types import LinlyError, ModelFolderError, SettingsError

BLOCK_VALUES = 16_777_213  # the largest prime below 2^24: no row's width has a part in it
SPREAD = 0.02  # activations stay finite through 40 layers
SHARD_BYTES = 5_000_000_000
ENTRY_BYTES = 192  # more than a tensor's entry in a shard's header takes
SPARE_BYTES = 1_000_000_000  # to be left on the disk

Entry = tuple[str, tuple[int, ...]]
Block = npt.NDArray[np.float16]


def main() -> int:
    end_cleanly()
    try:
        given = _parser().read(sys.argv[1:])
        geometry = geometry_of(given, Geometry.layers)
        write_model(given["folder"], geometry, given["shard_gb"], given["seed"], to_stderr)
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
        "--shard_gb", type=gigabytes, default=SHARD_BYTES, metavar="GB",
        help="most bytes of a file, in 10^9 (default: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=partial(at_least, 0), default=0, metavar="N", help="default: 0"
    )
    return parser


def write_model(folder: Path, geometry: Geometry, shard_bytes: int, seed: int, say: Say) -> None:
    """Write the model; `folder` appears whole or not at all. `say` is told each shard.

    Raises:
        SettingsError: no file of `shard_bytes` holds the largest tensor.
        ModelFolderError: there is something in `folder`, or no room on its disk.
    """
    parts = shards(geometry, shard_bytes)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ModelFolderError(
            f"{folder} exists already and is not empty", "Remove it or name another folder."
        )
    _check_room(folder, geometry.nbytes)
    try:
        whole_or_nothing(folder, lambda scratch: _write(scratch, geometry, parts, seed, say))
    except OSError as error:
        raise ModelFolderError(
            f"{folder} could not be written: {error}", "Name a folder on a disk with room."
        ) from error


def shards(geometry: Geometry, most: int) -> list[list[Entry]]:
    """The tensors by file, none of which takes more than `most` bytes.

    Raises:
        SettingsError: the largest tensor alone takes more.
    """
    found: list[list[Entry]] = []
    filled = most
    for name, shape in geometry.tensors():
        size = FLOAT16_BYTES * prod(shape) + ENTRY_BYTES
        if size + ENTRY_BYTES > most:
            raise SettingsError(
                f"{name} alone takes {size / 1e9:.3g} GB", "Pass a larger --shard_gb."
            )
        if filled + size > most:
            found.append([])
            filled = ENTRY_BYTES  # of what is no tensor's
        found[-1].append((name, shape))
        filled += size
    return found


def _check_room(folder: Path, needed: int) -> None:
    there = next(path for path in folder.absolute().parents if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed + SPARE_BYTES:
        raise ModelFolderError(
            f"The model takes {needed / 1e9:.1f} GB and {there} has {free / 1e9:.1f} GB free, of "
            f"which {SPARE_BYTES / 1e9:.0f} GB are left alone",
            "Free some, name a folder on another disk, or choose fewer --layers.",
        )


def _write(
    folder: Path, geometry: Geometry, parts: Sequence[Sequence[Entry]], seed: int, say: Say
) -> None:
    write_tokenizer(folder, geometry.vocab)
    (folder / "config.json").write_text(json.dumps(geometry.config(), indent=2), encoding="utf-8")
    random = np.random.default_rng(seed)
    block = (random.standard_normal(BLOCK_VALUES, np.float32) * SPREAD).astype(np.float16)
    names = [_shard_name(number, len(parts)) for number in range(len(parts))]
    for number, (name, entries) in enumerate(zip(names, parts, strict=True)):
        say(f"writing {name} ({number + 1} of {len(parts)}) …")
        with (folder / name).open("wb") as file:
            file.write(header(entries))
            for tensor, shape in entries:
                place = int(random.integers(BLOCK_VALUES))
                _write_tensor(file, prod(shape), None if "norm" in tensor else block[place:], block)
    if len(parts) > 1:
        _write_index(folder, geometry, dict(zip(names, parts, strict=True)))


def header(entries: Sequence[Entry]) -> bytes:
    """What a safetensors file of these float16 tensors begins with: its length, then JSON."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in entries:
        start, end = end, end + FLOAT16_BYTES * prod(shape)
        described[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return struct.pack("<Q", len(text)) + text


def _write_tensor(file: BinaryIO, count: int, beginning: Block | None, block: Block) -> None:
    """`count` values: ones, or the end of the block and then the block again and again."""
    if beginning is None:
        file.write(np.ones(count, np.float16).tobytes())
        return
    left = beginning
    while count:
        piece = left[:count]
        file.write(piece.data)
        count -= len(piece)
        left = block


def _shard_name(number: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{number + 1:05}-of-{count:05}.safetensors"


def _write_index(folder: Path, geometry: Geometry, parts: dict[str, Sequence[Entry]]) -> None:
    index = {
        "metadata": {"total_size": geometry.nbytes},
        "weight_map": {tensor: name for name, entries in parts.items() for tensor, _ in entries},
    }
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps(index, indent=2), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
