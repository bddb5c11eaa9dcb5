"""Merges adapters into single layers of a base, with peft.

peft merges complete models only, which takes 52 GB in float32 for a 13B. So each linear layer is
put alone into a module tree with its names in the model, and peft merges that: every kind of LoRA
that it supports, by its own formulas.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.diagnostics import adapter_error
from model.errors import AdapterError
from model.folders.adapter_config import read_config, setting_by_name
from model.folders.adapter_files import WHOLE_NAME, digest, list_adapter_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

LAYER_TENSOR = re.compile(r"^(?:base_model\.model\.)?(model\.layers\..+?|lm_head)\.(lora_.+)$")
ROWS_AND_COLUMNS = (("lora_B.weight", 0), ("lora_A.weight", 1))  # (tensor, axis) with the sizes
BY_ROW = ("lora_B", "lora_magnitude_vector")
FULL_TENSORS = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter to merge: its tensors for each linear layer, by the layer's name, and its own
    embedding or head in `full_tensors`."""

    name: str
    digest: str
    config: Any  # peft's
    adapter_scale: float
    layers: Mapping[str, Mapping[str, Tensor]]
    full_tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def changed_layers(self) -> set[str]:
        """The names of the layers that the adapter changes."""
        return {*self.layers, *self.full_tensors}


def read_adapter(path: Path, adapter_scale: float) -> AdapterWeights:
    """Reads the adapter in `path`, with its configuration as peft has it.

    Raises:
        AdapterError: it is torn, or has weights that cannot be merged.
    """
    # At its import it logs which of its kernels are missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from peft import LoraConfig

    layers: dict[str, dict[str, Tensor]] = {}
    full_tensors: dict[str, Tensor] = {}
    for lazy in list_adapter_tensors(path):
        name, tensor = lazy.name, lazy.read()
        if match := LAYER_TENSOR.match(name):
            layers.setdefault(match[1], {})[match[2].replace(".default", "")] = tensor
        elif match := WHOLE_NAME.match(name):
            full_tensors[FULL_TENSORS[match[1]]] = tensor
        else:
            raise adapter_error("adapter_weight_unknown", name=name)
    options = _with_exact_names(read_config(path), layers)
    try:
        config = LoraConfig.from_peft_type(**_supported(options))
    except (TypeError, ValueError) as error:  # peft's own checks
        reason = f"adapter_config.json: {str(error).splitlines()[0]}"
        raise adapter_error("adapter_unreadable", reason=reason) from error
    return AdapterWeights(path.name, digest(path), config, adapter_scale, layers, full_tensors)


def _with_exact_names(config: Mapping[str, Any], layers: Iterable[str]) -> dict[str, Any]:
    """`config` with the names of `layers`, those that have weights, in place of its patterns: peft
    matches patterns by backtracking, which for some of them never ends."""
    names = list(layers)
    return {
        **config,
        **dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern")),
        "target_modules": names,
        **{key: _exact(config, key, names) for key in ("rank_pattern", "alpha_pattern")},
    }


def _exact(config: Mapping[str, Any], patterns: str, names: Sequence[str]) -> dict[str, Any]:
    values = {name: setting_by_name(config, patterns, name, None) for name in names}
    return {re.escape(name): value for name, value in values.items() if value is not None}


def _supported(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without the keys that this version of peft lacks, as `merge_weights` of 2023."""
    from dataclasses import fields

    from peft import LoraConfig

    names = {field.name for field in fields(LoraConfig)}
    return {key: value for key, value in config.items() if key in names}


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
    try:
        rows, columns = (adapter.layers[name][key].shape[axis] for key, axis in ROWS_AND_COLUMNS)
        with warnings.catch_warnings():
            # It warns that patterns for other layers match no layer of the tree.
            warnings.simplefilter("ignore")
            tree = inject_adapter_in_model(adapter.config, _module_tree(name, rows, columns))
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
        if any(part in key for part in BY_ROW)
    }
    return _PeftLayer(name, layer, by_row)


def _failed(name: str, error: Exception) -> AdapterError:
    reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
    return adapter_error("merge_failed", layer=name, reason=reason)


def _module_tree(name: str, rows: int, columns: int) -> Module:
    """Nested modules by a dotted name; the last is a linear layer whose weight takes no memory."""
    from torch import nn, zeros

    linear = nn.Linear(columns, rows, bias=False, device="meta")
    linear.weight = nn.Parameter(zeros(1, columns).expand(rows, columns), requires_grad=False)
    root = node = nn.Module()
    *parents, last = name.split(".")
    for parent in parents:
        child = nn.Module()
        node.add_module(parent, child)
        node = child
    node.add_module(last, linear)
    return root
