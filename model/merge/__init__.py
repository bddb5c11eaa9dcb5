"""`python -m model merge`: merges adapters into the weights of their base.

Only one tensor at a time is in memory: it is read, merged in float32, and written in 16 or 32 bits.
Never in 8 bits, whose rounding would remove most of what an adapter adds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.diagnostics import adapter_error
from model.doctor.check_base import quick_check, refuse_errors
from model.folders.adapter_kinds import WHOLE
from model.folders.atomic_folder import FINISHED, new_folder
from model.folders.lazy_tensor import LazyTensor, torch_dtype
from model.folders.model_folder import IGNORED, ModelFolder
from model.folders.weight_writer import nbytes_of, write_weights
from model.merge.adapter_weights import AdapterWeights
from model.merge.extra_files import ChatFormat, write_extra_files
from model.merge.statistics import MergeStatistics
from model.merge.weights import Merger
from model.progress_bar import Bar
from model.tensor_names import EMBEDDING, HEAD

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1  # of the folders that are written
CONFIG_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
CHUNK_VALUES = 1 << 20  # merged at once: 4 MB in float32
EMBEDDING_AND_HEAD = set(WHOLE.values())


@dataclass(frozen=True)
class MergePlan:
    """What to merge: a base, the adapters in their order, the dtype of the result (None for the
    base's own), and its tokenizer and template."""

    base: ModelFolder
    adapters: Sequence[AdapterWeights]
    dtype: str | None
    chat_format: ChatFormat


def merge(plan: MergePlan, destination: Path, bar: Bar) -> MergeStatistics:
    """Writes the merged model into the folder `destination`, which appears when it is complete.

    Raises:
        AdapterError: an adapter does not fit, or changed nothing.
        ModelFolderError: the base cannot be read, or `destination` cannot be written.
    """
    base_tensors = _base_tensors(plan)
    dtype = plan.dtype or _most_common_dtype(base_tensors)
    statistics = MergeStatistics()
    tensors = [_merged(tensor, plan.adapters, dtype, statistics) for tensor in base_tensors]
    config = _config(plan.base.config, tensors, dtype)
    with new_folder(destination, _recipe(plan, dtype), nbytes_of(tensors)) as folder:
        statistics.partial = any(folder.glob(FINISHED))
        text = json.dumps(config, indent=2)
        (folder / "config.json").write_text(text + "\n", encoding="utf-8")
        write_extra_files(folder, plan.base, plan.chat_format)
        with bar("Merging", nbytes_of(tensors)) as progress:
            write_weights(tensors, folder, progress)
        if not statistics.changed and not statistics.partial:
            raise adapter_error("merge_nothing")
        refuse_errors(quick_check(ModelFolder(folder)))
    return statistics


def _base_tensors(plan: MergePlan) -> list[LazyTensor]:
    """The base's tensors, in the order of its files.

    If embedding and head are tied and an adapter changes one of them, the head becomes its own
    tensor.
    """
    stored = [tensor for _, tensor in plan.base.tensors()]
    tied = plan.base.tied_head
    tensors = [t for t in stored if not t.name.endswith(IGNORED) and not (tied and t.name == HEAD)]
    untie = any(EMBEDDING_AND_HEAD & adapter.changed_layers for adapter in plan.adapters)
    if tied and untie:
        tensors += [tensor.renamed(HEAD) for tensor in tensors if tensor.name == EMBEDDING]
    return tensors


def _most_common_dtype(tensors: Sequence[LazyTensor]) -> str:
    """The dtype with most of the bytes, or BF16 if merging cannot write that."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.nbytes
    largest = max(sizes, key=lambda name: sizes[name])
    return largest if largest in CONFIG_NAMES else "BF16"


def _merged(
    tensor: LazyTensor, adapters: Sequence[AdapterWeights], dtype: str, statistics: MergeStatistics
) -> LazyTensor:
    """`tensor` as the merged model has it; it is merged when it is read."""
    merger = Merger(tensor.name.removesuffix(".weight"), adapters)
    if not merger:
        return replace(tensor, dtype=dtype, read=lambda: tensor.read().to(torch_dtype(dtype)))
    shape = merger.merged_shape(tensor.shape)
    read = partial(_read_merged, tensor, adapters, dtype, statistics)
    return LazyTensor(tensor.name, dtype, shape, read)


def _read_merged(
    tensor: LazyTensor, adapters: Sequence[AdapterWeights], dtype: str, statistics: MergeStatistics
) -> Tensor:
    """Merges a few rows at a time, so that their numbers stay in the processor's caches."""
    import torch

    # A new one for each layer, because it keeps the adapters' parts in float32.
    merger = Merger(tensor.name.removesuffix(".weight"), adapters)
    before = tensor.read()
    after = torch.empty(merger.merged_shape(tensor.shape), dtype=torch_dtype(dtype))
    step = max(1, CHUNK_VALUES // before[0].numel()) if merger.by_rows else len(after)
    statistics.begin()
    for start in range(0, len(after), step):
        stop = min(start + step, len(after))
        after[start:stop] = merger.merge_rows(before[start:stop], start, stop)
        statistics.count(tensor.name, before[start:stop], after[start:stop])
    return after


def _config(config: Mapping[str, Any], tensors: Sequence[LazyTensor], dtype: str) -> dict[str, Any]:
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    changed = {"vocab_size": shapes[EMBEDDING][0], "dtype": CONFIG_NAMES[dtype]}
    unchanged = {key: value for key, value in config.items() if key != "torch_dtype"}
    return {**unchanged, **changed, "tie_word_embeddings": HEAD not in shapes}


def _recipe(plan: MergePlan, dtype: str) -> dict[str, object]:
    """Everything that determines the weight files' content."""
    files = {str(path.resolve()): path.stat() for path in plan.base.weight_files}
    return {
        "format": FORMAT,
        "dtype": dtype,
        "base": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in files.items()},
        "adapters": [[adapter.digest, adapter.adapter_scale] for adapter in plan.adapters],
    }
