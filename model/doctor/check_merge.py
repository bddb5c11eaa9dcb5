"""Checks the tensors of an adapter that is to be merged against its base's.

What passes can be merged: the advice to merge an adapter is only given after these checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from model.diagnostics import adapter_error
from model.folders.adapter_config import token_indices
from model.folders.adapter_files import LAYER_TENSOR, TOKENS_TENSOR, replaced_tensor
from model.folders.adapter_kinds import WHOLE, modules_to_save
from model.folders.base_info import BaseInfo
from model.tensor_names import EMBEDDING, HEAD

if TYPE_CHECKING:
    from model.folders.lazy_tensor import LazyTensor

Shape = tuple[int, ...]
MAGNITUDE = "lora_magnitude_vector"  # of DoRA, for each row of the weight


def check_merged_tensors(
    config: Mapping[str, Any], tensors: Iterable[LazyTensor], base: BaseInfo
) -> bool:
    """Checks that the base has all that the adapter changes, with the same shapes.

    Its vocabulary may have another size, which `check_vocabulary` checks.

    Returns:
        Whether tensors or rows of the base are replaced.

    Raises:
        AdapterError: the base lacks one, or one has another shape.
    """
    tensors = list(tensors)
    replaced = {name: t for t in tensors if (name := replaced_tensor(t.name)) is not None}
    shapes = _shapes_after(replaced, base)
    adapted: dict[str, dict[str, Shape]] = {}
    rows: dict[str, Shape] = {}
    for tensor in tensors:
        if match := LAYER_TENSOR.match(tensor.name):
            part = match[2].replace(".default", "").removesuffix(".weight")
            adapted.setdefault(match[1], {})[part] = tuple(tensor.shape)
        elif match := TOKENS_TENSOR.match(tensor.name):
            rows[match[1]] = tuple(tensor.shape)
        elif replaced_tensor(tensor.name) is None:
            raise adapter_error("adapter_weight_unknown", name=tensor.name)
    _check_none_missing(config, replaced, rows)
    for layer, parts in adapted.items():
        _check_layer(layer, parts, shapes, bool(config.get("use_dora")))
    for layer, shape in rows.items():
        _check_rows(config, layer, shape, shapes)
    return bool(replaced or rows)


def _check_none_missing(
    config: Mapping[str, Any], replaced: Iterable[str], rows: Iterable[str]
) -> None:
    """Checks that there are weights for all that the configuration says that was trained."""
    parts = {part for name in replaced for part in name.split(".")}
    missing = modules_to_save(config) - parts
    if config.get("trainable_token_indices") and not list(rows):
        missing |= {"trainable_tokens_delta"}
    if missing:
        raise adapter_error("adapter_own_missing", names=" and ".join(sorted(missing)))


def _shapes_after(replaced: Mapping[str, LazyTensor], base: BaseInfo) -> dict[str, Shape]:
    """The shapes of the base's tensors once those in `replaced` are."""
    shapes = {HEAD: base.tensors[EMBEDDING], **base.tensors}
    for name, tensor in replaced.items():
        layer, shape = name.removesuffix(".weight"), tuple(tensor.shape)
        if name not in shapes:
            raise adapter_error("merge_no_layer", layer=layer)
        fixed = shapes[name][1:] if layer in WHOLE.values() else shapes[name]
        if shape[-len(fixed) :] != fixed or len(shape) != len(shapes[name]):
            raise adapter_error("merge_shape", layer=layer, shape=list(shape))
        shapes[name] = shape
    return shapes


def _check_layer(
    layer: str, parts: Mapping[str, Shape], shapes: Mapping[str, Shape], dora: bool
) -> None:
    """Checks the LoRA of a layer, whose tensors have the shapes in `parts`."""
    if f"{layer}.weight" not in shapes:
        raise adapter_error("merge_no_layer", layer=layer)
    rows, columns = shapes[f"{layer}.weight"]
    is_embedding = layer == WHOLE["embed_tokens"]
    a, b = ("lora_embedding_A", "lora_embedding_B") if is_embedding else ("lora_A", "lora_B")
    needed = {a, b, MAGNITUDE} if dora else {a, b}
    if not needed <= set(parts) or any(len(parts[part]) != 2 for part in (a, b)):
        raise adapter_error("merge_lora_incomplete", layer=layer, parts=", ".join(sorted(needed)))
    outer = (columns, rows) if is_embedding else (rows, columns)
    rank = parts[a][0]
    if (parts[b], parts[a]) != ((outer[0], rank), (rank, outer[1])):
        raise adapter_error("merge_shape", layer=f"{layer} LoRA", shape=list(parts[b]))
    if dora and parts[MAGNITUDE] != (outer[0],):
        raise adapter_error("merge_shape", layer=f"{layer} DoRA", shape=list(parts[MAGNITUDE]))


def _check_rows(
    config: Mapping[str, Any], layer: str, shape: Shape, shapes: Mapping[str, Shape]
) -> None:
    """Checks the trained rows of a layer, a tensor of the `shape`."""
    indices = token_indices(config, layer, shape)
    num_rows, *size = shapes[f"{WHOLE[layer]}.weight"]
    if list(shape[1:]) != size or max(indices, default=0) >= num_rows:
        raise adapter_error("adapter_tokens_unfit", layer=layer, rows=shape[0])
