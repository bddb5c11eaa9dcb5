"""One tensor of a base with an adapter merged into it, by peft itself, a layer at a time.

peft merges whole models, which takes a 13B's 52 GB in float32. So each linear layer stands alone in
a module tree with the names that it has in the model, and peft merges that: every kind of LoRA that
it knows, by its own formulas.
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
SIDES = (("lora_B.weight", 0), ("lora_A.weight", 1))  # which tell the layer's rows and columns
BY_ROW = ("lora_B", "lora_magnitude_vector")
WHOLE_TENSORS = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter to merge at some `strength`: what it holds for each linear layer, by the layer's
    name, and its own embedding or head."""

    name: str
    digest: str
    config: Any  # peft's
    strength: float
    layers: Mapping[str, Mapping[str, Tensor]]
    whole: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def touched(self) -> set[str]:
        """Names of the layers that it changes."""
        return {*self.layers, *self.whole}


def read_adapter(path: Path, strength: float) -> AdapterWeights:
    """The adapter in `path`, as peft knows it.

    Raises:
        AdapterError: it is torn, or holds what cannot be merged.
    """
    # It says at its import which of its kernels are not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from peft import LoraConfig

    layers: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for lazy in list_adapter_tensors(path):
        name, tensor = lazy.name, lazy.read()
        if match := LAYER_TENSOR.match(name):
            layers.setdefault(match[1], {})[match[2].replace(".default", "")] = tensor
        elif match := WHOLE_NAME.match(name):
            whole[WHOLE_TENSORS[match[1]]] = tensor
        else:
            raise adapter_error("adapter_weight_unknown", name=name)
    given = _resolved(read_config(path), layers)
    try:
        config = LoraConfig.from_peft_type(**_known(given))
    except (TypeError, ValueError) as error:  # peft's own checks
        said = f"adapter_config.json: {str(error).splitlines()[0]}"
        raise adapter_error("adapter_unreadable", said=said) from error
    return AdapterWeights(path.name, digest(path), config, strength, layers, whole)


def _resolved(config: Mapping[str, Any], layers: Iterable[str]) -> dict[str, Any]:
    """`config` with the names of `layers` in the place of its patterns: peft matches them by
    backtracking, which some never come back from. What has weights is what is merged."""
    names = list(layers)
    return {
        **config,
        **dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern")),
        "target_modules": names,
        **{key: _exact(config, key, names) for key in ("rank_pattern", "alpha_pattern")},
    }


def _exact(config: Mapping[str, Any], patterns: str, names: Sequence[str]) -> dict[str, Any]:
    found = {name: setting_by_name(config, patterns, name, None) for name in names}
    return {re.escape(name): value for name, value in found.items() if value is not None}


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys that this peft does not know; `merge_weights` of 2023, for example."""
    from dataclasses import fields

    from peft import LoraConfig

    names = {field.name for field in fields(LoraConfig)}
    return {key: value for key, value in config.items() if key in names}


class Merger:
    """What some adapters, in their order, make of one layer, a few rows at a time.

    All that a LoRA does to a row of a weight depends on that row alone, and few rows stay in the
    processor's caches: merging whole matrices took twice as long.
    """

    def __init__(self, name: str, adapters: Sequence[AdapterWeights]) -> None:
        self._adapters = [adapter for adapter in adapters if name in adapter.touched]
        self._name = name

    @cached_property
    def _layers(self) -> list[_PeftLayer | None]:
        name = self._name
        return [_peft_layer(a, name) if name in a.layers else None for a in self._adapters]

    def __bool__(self) -> bool:
        return bool(self._adapters)

    def shape(self, base: tuple[int, ...]) -> tuple[int, ...]:
        """The layer's shape afterwards, from that in the base: a vocabulary may have grown."""
        for adapter in self._adapters:
            if self._name in adapter.whole:
                base = tuple(adapter.whole[self._name].shape)
        return base

    def rows(self, weight: Tensor, start: int, stop: int) -> Tensor:
        """The rows from `start` to before `stop` afterwards, float32, from the same ones of the
        base, which are fewer where it has no more.

        Raises:
            AdapterError: peft cannot do it, because the shapes differ for example.
        """
        result = weight.float()
        if result is weight:
            result = weight.clone()  # peft adds in place
        for adapter, layer in zip(self._adapters, self._layers, strict=True):
            if self._name in adapter.whole:
                own = adapter.whole[self._name][start:stop].float()
                result = _blended(result, own, adapter.strength)
            if layer is not None:
                result = layer.merged(result, start)
        return result


def _blended(old: Tensor, new: Tensor, strength: float) -> Tensor:
    """`new` at some strength; rows that `old` does not have are new whatever the strength."""
    if strength == 1.0:
        return new
    blend, shared = new.clone(), min(len(old), len(new))
    blend[:shared] = old[:shared].lerp(new[:shared], strength)
    return blend


@dataclass(frozen=True)
class _PeftLayer:
    """One of peft's layers, whose parameters that have a row for each row of the weight are kept
    whole in `by_row`."""

    name: str
    layer: Any
    by_row: Mapping[str, Tensor]

    def merged(self, weight: Tensor, start: int) -> Tensor:
        """`weight`, the rows from `start` on, with the adapter in them."""
        try:
            self.layer.get_base_layer().weight.data = weight
            parameters = dict(self.layer.named_parameters())
            for name, whole in self.by_row.items():
                parameters[name].data = whole[start : start + len(weight)]
            self.layer.merge()
            self.layer.merged_adapters.clear()
        except Exception as error:  # peft and torch raise whatever they run into
            raise _failed(self.name, error) from error
        result: Tensor = self.layer.get_base_layer().weight.data
        return result


def _peft_layer(adapter: AdapterWeights, name: str) -> _PeftLayer:
    from peft import inject_adapter_in_model, set_peft_model_state_dict

    held = {f"{name}.{key}": tensor for key, tensor in adapter.layers[name].items()}
    try:
        rows, columns = (adapter.layers[name][key].shape[at] for key, at in SIDES)
        with warnings.catch_warnings():
            # That patterns match no layer of the tree: they are other layers'.
            warnings.simplefilter("ignore")
            tree = inject_adapter_in_model(adapter.config, _tree(name, rows, columns))
        unexpected = set_peft_model_state_dict(tree, held).unexpected_keys
        layer: Any = tree.get_submodule(name)
        layer.scale_layer(adapter.strength)
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
    said = (str(error).splitlines() or [type(error).__name__])[-1].strip()
    return adapter_error("merge_failed", layer=name, said=said)


def _tree(name: str, rows: int, columns: int) -> Module:
    """Modules inside each other by a dotted name, a linear layer at the end, whose weight takes no
    memory."""
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
