"""`python -m model merge`: adapters into the weights of their base.

Every tensor passes through memory alone: read, merged in float32, written in 16 or 32 bits. Never
into 8 bits: rounding there would swallow most of what an adapter adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.diagnostics import adapter_error, to_error
from model.doctor.check_base import quick_check
from model.folders.atomic_folder import FINISHED, new_folder
from model.folders.lazy_tensor import LazyTensor, torch_dtype
from model.folders.model_folder import IGNORED, ModelFolder
from model.folders.weight_writer import nbytes_of, write_weights
from model.merge.extra_files import ChatFormat, write_rest
from model.merge.statistics import MergeStatistics
from model.merge.weights import AdapterWeights, Merger
from model.progress_bar import Bar
from model.tensor_names import EMBEDDING, HEAD

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # of what is written
CONFIG_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
CHUNK_VALUES = 1 << 20  # that are merged at once: 4 MB in float32
ENDS = {"model.embed_tokens", "lm_head"}


@dataclass(frozen=True)
class Merge:
    """A base, the adapters in their order, the type of the result (None for the base's own), and
    which tokenizer and template it is to have."""

    base: ModelFolder
    adapters: Sequence[AdapterWeights]
    dtype: str | None
    voice: ChatFormat


def merge(job: Merge, destination: Path, bar: Bar) -> MergeStatistics:
    """Write the merged model into the folder `destination`, which appears whole or not at all.

    Raises:
        AdapterError: an adapter does not fit, or changed nothing.
        ModelFolderError: the base cannot be read, or `destination` not be written.
    """
    held = _base_tensors(job)
    dtype = job.dtype or _usual_dtype(held)
    tally = MergeStatistics()
    tensors = [_merged(tensor, job.adapters, dtype, tally) for tensor in held]
    config = _config(job.base.config, tensors, dtype)
    with new_folder(destination, _recipe(job, dtype), nbytes_of(tensors)) as folder:
        tally.partial = any(folder.glob(FINISHED))
        text = json.dumps(config, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        write_rest(folder, job.base, job.voice)
        with bar("Merging", nbytes_of(tensors)) as progress:
            write_weights(tensors, folder, progress)
        if not tally.changed and not tally.partial:
            raise adapter_error("merge_nothing")
        for found in quick_check(ModelFolder(folder)):
            if found.level == "error":
                raise to_error(found)
    return tally


def _base_tensors(job: Merge) -> list[LazyTensor]:
    """Those that make up the model, in the order of the files.

    Where one tensor is embedding and head and an adapter changes either, they part ways.
    """
    listed = [tensor for _, tensor in job.base.tensors()]
    tied = bool(job.base.config.get("tie_word_embeddings"))
    held = [t for t in listed if not t.name.endswith(IGNORED) and not (tied and t.name == HEAD)]
    parted = any(ENDS & adapter.touched for adapter in job.adapters)
    if tied and parted:
        held += [tensor.renamed(HEAD) for tensor in held if tensor.name == EMBEDDING]
    return held


def _usual_dtype(tensors: Sequence[LazyTensor]) -> str:
    """The type of most of the numbers, if it is one to merge into."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    usual = max(sizes, key=lambda name: sizes[name])
    return usual if usual in CONFIG_NAMES else "BF16"


def _merged(
    tensor: LazyTensor, adapters: Sequence[AdapterWeights], dtype: str, tally: MergeStatistics
) -> LazyTensor:
    merger = Merger(tensor.name.removesuffix(".weight"), adapters)
    if not merger:
        return replace(tensor, dtype=dtype, read=lambda: tensor.read().to(torch_dtype(dtype)))
    shape = merger.shape(tensor.shape)
    return LazyTensor(tensor.name, dtype, shape, partial(_read, tensor, adapters, dtype, tally))


def _read(
    tensor: LazyTensor, adapters: Sequence[AdapterWeights], dtype: str, tally: MergeStatistics
) -> Tensor:
    """A few rows after the other, so that what is computed with stays in the processor's caches."""
    import torch

    # Made here, for the layer that it is needed for: it keeps the adapters' parts in float32.
    merger = Merger(tensor.name.removesuffix(".weight"), adapters)
    before = tensor.read()
    after = torch.empty(merger.shape(tensor.shape), dtype=torch_dtype(dtype))
    step = max(1, CHUNK_VALUES // before.shape[1])
    tally.begin()
    for start in range(0, len(after), step):
        stop = min(start + step, len(after))
        after[start:stop] = merger.rows(before[start:stop], start, stop)
        tally.count(tensor.name, before[start:stop], after[start:stop])
    return after


def _config(config: Mapping[str, Any], tensors: Sequence[LazyTensor], dtype: str) -> dict[str, Any]:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    changed = {"vocab_size": shapes[EMBEDDING][0], "dtype": CONFIG_NAMES[dtype]}
    kept = {key: value for key, value in config.items() if key != "torch_dtype"}
    return {**kept, **changed, "tie_word_embeddings": HEAD not in shapes}


def _recipe(job: Merge, dtype: str) -> dict[str, object]:
    files = {str(path.resolve()): path.stat() for path in job.base.weight_files}
    return {
        "format": FORMAT,
        "dtype": dtype,
        "base": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()},
        "adapters": [[adapter.digest, adapter.strength] for adapter in job.adapters],
    }
