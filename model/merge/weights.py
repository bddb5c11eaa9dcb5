"""Merges adapters into single layers of a base, with peft.

peft merges complete models only, which takes 52 GB in float32 for a 13B. So each linear layer is
put alone into a module tree with its names in the model, and peft merges that: every kind of LoRA
that it supports, by its own formulas.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from model.diagnostics import adapter_error
from model.errors import AdapterError
from model.merge.adapter_weights import AdapterWeights, TokenRows

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

# (tensor, axis) with the rows of a layer, and with its columns.
SIZES = (("lora_B.weight", 0), ("lora_A.weight", 1))
EMBEDDING_SIZES = (("lora_embedding_A", 1), ("lora_embedding_B", 0))
BY_ROW = ("lora_B", "lora_magnitude_vector")


class Merger:
    """Merges adapters, in their order, into one layer, a few rows at a time.

    A LoRA's effect on a row of a weight depends on that row alone, and a few rows stay in the
    processor's caches: merging complete matrices took twice as long.
    """

    def __init__(self, name: str, adapters: Sequence[AdapterWeights]) -> None:
        self._adapters = [adapter for adapter in adapters if name in adapter.changed_layers]
        self._name = name

    @cached_property
    def _layers(self) -> list[_PeftLayer | None]:
        name = self._name
        return [_peft_layer(a, name) if name in a.layers else None for a in self._adapters]

    def __bool__(self) -> bool:
        return bool(self._adapters)

    @property
    def by_rows(self) -> bool:
        """Whether a few rows can be merged at a time: not those of an embedding's LoRA, where DoRA
        scales columns."""
        return not any(_is_embedding(a.layers.get(self._name, {})) for a in self._adapters)

    def merged_shape(self, base: tuple[int, ...]) -> tuple[int, ...]:
        """The layer's shape after the merge; `base` is its shape before. A vocabulary can grow."""
        for adapter in self._adapters:
            if self._name in adapter.full_tensors:
                base = tuple(adapter.full_tensors[self._name].shape)
        return base

    def merge_rows(self, weight: Tensor, start: int, stop: int) -> Tensor:
        """The merged rows from `start` to before `stop`, in float32.

        Args:
            weight: the same rows of the base, fewer if its vocabulary is smaller.

        Raises:
            AdapterError: peft cannot merge them, for example because the shapes differ.
        """
        result = weight.float()
        if result is weight:
            result = weight.clone()  # peft adds in place
        for adapter, layer in zip(self._adapters, self._layers, strict=True):
            if self._name in adapter.full_tensors:
                new = adapter.full_tensors[self._name][start:stop].float()
                result = _blended(result, new, adapter.adapter_scale)
            if self._name in adapter.token_rows:
                rows = adapter.token_rows[self._name]
                _replace_rows(result, rows, start, adapter.adapter_scale)
            if layer is not None:
                result = layer.merged(result, start)
        return result


def _blended(old: Tensor, new: Tensor, adapter_scale: float) -> Tensor:
    """`old` moved towards `new` by the adapter scale; rows that `old` lacks are those of `new`."""
    if adapter_scale == 1.0:
        return new
    blend, shared = new.clone(), min(len(old), len(new))
    blend[:shared] = old[:shared].lerp(new[:shared], adapter_scale)
    return blend


def _replace_rows(rows: Tensor, new: TokenRows, start: int, adapter_scale: float) -> None:
    """Moves those of `rows`, which begin at `start`, towards `new` by the adapter scale."""
    inside = (new.indices >= start) & (new.indices < start + len(rows))
    indices = new.indices[inside] - start
    rows[indices] = rows[indices].lerp(new.values[inside].float(), adapter_scale)


def _is_embedding(tensors: Mapping[str, Tensor]) -> bool:
    return EMBEDDING_SIZES[0][0] in tensors


@dataclass(frozen=True)
class _PeftLayer:
    """One of peft's layers. `by_row` has those of its parameters, with all their rows, that have a
    row for each row of the weight."""

    name: str
    layer: Any
    by_row: Mapping[str, Tensor]

    def merged(self, weight: Tensor, start: int) -> Tensor:
        """The rows `weight`, which begin at `start`, with the adapter merged into them."""
        try:
            self.layer.get_base_layer().weight.data = weight
            parameters = dict(self.layer.named_parameters())
            for name, all_rows in self.by_row.items():
                parameters[name].data = all_rows[start : start + len(weight)]
            self.layer.merge()
            self.layer.merged_adapters.clear()
        except Exception as error:  # peft and torch raise whatever they run into
            raise _failed(self.name, error) from error
        result: Tensor = self.layer.get_base_layer().weight.data
        return result


def _peft_layer(adapter: AdapterWeights, name: str) -> _PeftLayer:
    from peft import inject_adapter_in_model, set_peft_model_state_dict

    tensors = {f"{name}.{key}": tensor for key, tensor in adapter.layers[name].items()}
    is_embedding = _is_embedding(adapter.layers[name])
    try:
        sizes = EMBEDDING_SIZES if is_embedding else SIZES
        rows, columns = (adapter.layers[name][key].shape[axis] for key, axis in sizes)
        with warnings.catch_warnings():
            # It warns that patterns for other layers match no layer of the tree.
            warnings.simplefilter("ignore")
            tree = inject_adapter_in_model(
                adapter.config, _module_tree(name, rows, columns, is_embedding)
            )
        unexpected = set_peft_model_state_dict(tree, tensors).unexpected_keys
        layer: Any = tree.get_submodule(name)
        layer.scale_layer(adapter.adapter_scale)
    except Exception as error:  # as above
        raise _failed(name, error) from error
    if unexpected:
        raise adapter_error("adapter_weight_unknown", name=unexpected[0])
    by_row = {
        key: parameter.data
        for key, parameter in layer.named_parameters()
        if not is_embedding and any(part in key for part in BY_ROW)
    }
    return _PeftLayer(name, layer, by_row)


def _failed(name: str, error: Exception) -> AdapterError:
    reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
    return adapter_error("merge_failed", layer=name, reason=reason)


def _module_tree(name: str, rows: int, columns: int, is_embedding: bool) -> Module:
    """Nested modules by a dotted name; the last is a linear layer or an embedding, whose weight
    takes no memory."""
    from torch import nn, zeros

    layer: nn.Linear | nn.Embedding = nn.Linear(columns, rows, bias=False, device="meta")
    if is_embedding:
        layer = nn.Embedding(rows, columns, device="meta")
    layer.weight = nn.Parameter(zeros(1, columns).expand(rows, columns), requires_grad=False)
    root = node = nn.Module()
    *parents, last = name.split(".")
    for parent in parents:
        child = nn.Module()
        node.add_module(parent, child)
        node = child
    node.add_module(last, layer)
    return root
