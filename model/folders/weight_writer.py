"""Tensors to safetensors files, two tensors in memory at a time.

The library's own `save_file` wants a whole file's tensors at once; a 13B's embedding alone has half
a gigabyte, and its files two. The format is simple: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from io import RawIOBase
from pathlib import Path
from typing import TYPE_CHECKING

from model.folders.weights import LENGTH, LazyTensor, bytes_of
from model.types import Progress

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 2_000_000_000  # what is lost at the most when somebody interrupts
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

Shards = Mapping[str, Sequence[LazyTensor]]


def nbytes_of(tensors: Iterable[LazyTensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def write_weights(tensors: Sequence[LazyTensor], folder: Path, progress: Progress) -> None:
    """Write `tensors` into `folder`: one file, or several and their index.

    Files that are there already are taken as finished. `progress` gets the share of the bytes
    that are written, 0 to 1. While one tensor is written the next is read, so two are in memory.
    """
    shards, total, done = plan_shards(tensors), nbytes_of(tensors), 0
    missing = {name: held for name, held in shards.items() if not (folder / name).exists()}
    with ThreadPoolExecutor(1, "reading") as reader:
        read_ahead = _read_ahead(reader, [t for held in missing.values() for t in held])
        for name, held in shards.items():
            if name in missing:
                advance = partial(_advance, progress, done, total)
                _write_shard(folder / name, held, read_ahead, advance)
            done += nbytes_of(held)
            progress(done / total)
    if len(shards) > 1:
        _write_index(folder, shards)


def _read_ahead(reader: Executor, tensors: Iterable[LazyTensor]) -> Iterator[Tensor]:
    """The contents of `tensors`, the next being read while one is dealt with."""
    coming: Future[Tensor] | None = None
    for tensor in tensors:
        last, coming = coming, reader.submit(tensor.read)
        if last is not None:
            yield last.result()
            del last
    if coming is not None:
        yield coming.result()


def plan_shards(tensors: Sequence[LazyTensor]) -> Shards:
    """The tensors by file, in their order, each file of about SHARD_BYTES."""
    groups: list[list[LazyTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if groups[-1] and filled + tensor.nbytes > SHARD_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += tensor.nbytes
    if len(groups) == 1:
        return {ONE_FILE: groups[0]}
    count = len(groups)
    return {f"model-{n:05}-of-{count:05}.safetensors": group for n, group in enumerate(groups, 1)}


def header(tensors: Sequence[LazyTensor]) -> bytes:
    """What a safetensors file of `tensors` begins with: a length, then JSON."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        described[tensor.name] = {
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return LENGTH.pack(len(text)) + text


def _advance(progress: Progress, before: int, total: int, written: int) -> None:
    progress((before + written) / total)


def _write_shard(
    path: Path,
    tensors: Sequence[LazyTensor],
    contents: Iterator[Tensor],
    advance: Callable[[int], None],
) -> None:
    """Under another name until it is whole and on the disk, power cuts included."""
    unfinished = path.with_suffix(".writing")
    done = 0
    with unfinished.open("wb", buffering=0) as file:
        file.write(header(tensors))
        for tensor in tensors:
            _write_values(file, next(contents))
            done += tensor.nbytes
            advance(done)
        os.fsync(file.fileno())
    unfinished.rename(path)


def _write_values(file: RawIOBase, values: Tensor) -> None:
    left = bytes_of(values)
    while left:  # a system writes 2 GB at once at the most
        left = left[file.write(left) :]


def _write_index(folder: Path, shards: Shards) -> None:
    held = {tensor.name: name for name, tensors in shards.items() for tensor in tensors}
    total = sum(nbytes_of(tensors) for tensors in shards.values())
    index = {"metadata": {"total_size": total}, "weight_map": held}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
