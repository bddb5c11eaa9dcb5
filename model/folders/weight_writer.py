"""Writes tensors to safetensors files, with two tensors in memory at a time.

The library's `save_file` needs all tensors of a file in memory: two gigabytes for a 13B, whose
embedding alone has half a gigabyte. The format is simple: https://github.com/huggingface/safetensors
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

from model.folders.lazy_tensor import LazyTensor, bytes_of
from model.folders.safetensors_file import LENGTH
from model.types import Progress

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 2_000_000_000  # an interruption loses one unfinished shard at most
ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"

Shards = Mapping[str, Sequence[LazyTensor]]


def nbytes_of(tensors: Iterable[LazyTensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def write_weights(tensors: Sequence[LazyTensor], folder: Path, progress: Progress) -> None:
    """Writes `tensors` into `folder`: one file, or several and their index.

    A file that exists counts as finished. While one tensor is written the next one is read.

    Args:
        tensors: in the order of the files.
        folder: where the files are written.
        progress: receives the share of the bytes that are written, 0 to 1.
    """
    shards, total, done = plan_shards(tensors), nbytes_of(tensors), 0
    missing = {name: shard for name, shard in shards.items() if not (folder / name).exists()}
    with ThreadPoolExecutor(1, "reading") as reader:
        values = _prefetch(reader, [tensor for shard in missing.values() for tensor in shard])
        for name, shard in shards.items():
            if name in missing:
                advance = partial(_advance, progress, done, total)
                _write_shard(folder / name, shard, values, advance)
            done += nbytes_of(shard)
            progress(done / total)
    if len(shards) > 1:
        _write_index(folder, shards)


def _prefetch(reader: Executor, tensors: Iterable[LazyTensor]) -> Iterator[Tensor]:
    """Yields the values of each tensor; reads the next one meanwhile."""
    coming: Future[Tensor] | None = None
    for tensor in tensors:
        current, coming = coming, reader.submit(tensor.read)
        if current is not None:
            yield current.result()
            del current  # so that only two tensors are in memory
    if coming is not None:
        yield coming.result()


def plan_shards(tensors: Sequence[LazyTensor]) -> Shards:
    """Returns the tensors by file name, in their order, with about SHARD_BYTES in each file."""
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
    """Returns the beginning of a safetensors file of `tensors`: a length, then a JSON table."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        table[tensor.name] = {
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]
        }  # fmt: skip
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the values begin at a multiple of 8
    return LENGTH.pack(len(text)) + text


def _advance(progress: Progress, done_before: int, total: int, written: int) -> None:
    progress((done_before + written) / total)


def _write_shard(
    path: Path,
    tensors: Sequence[LazyTensor],
    values: Iterator[Tensor],
    advance: Callable[[int], None],
) -> None:
    """Writes a file under a temporary name, and renames it once all of it is on the disk: so a
    power cut leaves no incomplete file."""
    unfinished = path.with_suffix(".writing")
    done = 0
    with unfinished.open("wb", buffering=0) as file:
        file.write(header(tensors))
        for tensor in tensors:
            _write_values(file, next(values))
            done += tensor.nbytes
            advance(done)
        os.fsync(file.fileno())
    unfinished.rename(path)


def _write_values(file: RawIOBase, values: Tensor) -> None:
    remaining = bytes_of(values)
    while remaining:  # the system writes 2 GB at once at most
        remaining = remaining[file.write(remaining) :]


def _write_index(folder: Path, shards: Shards) -> None:
    weight_map = {tensor.name: name for name, tensors in shards.items() for tensor in tensors}
    total = sum(nbytes_of(tensors) for tensors in shards.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
