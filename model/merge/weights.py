"""One tensor of a base with an adapter merged into it, by peft itself, a layer at a time.

peft merges whole models, which takes a 13B's 52 GB in float32. So each linear layer is put alone
into a module tree with the names that it has in the model, and peft merges that: every kind of LoRA
that it knows, by its own formulas.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.adapter_files import WHOLE_NAME, all_tensors, digest, read_config
from model.findings import adapter_error

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

LAYER_TENSOR = re.compile(r"^(?:base_model\.model\.)?(model\.layers\..+?|lm_head)\.(lora_.+)$")
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

    config = LoraConfig.from_peft_type(**_known(read_config(path)))
    layers: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in all_tensors(path):
        if match := LAYER_TENSOR.match(name):
            layers.setdefault(match[1], {})[match[2].replace(".default", "")] = tensor
        elif match := WHOLE_NAME.match(name):
            whole[WHOLE_TENSORS[match[1]]] = tensor
        else:
            raise adapter_error("adapter_weight_unknown", name=name)
    return AdapterWeights(path.name, digest(path), config, strength, layers, whole)


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without the keys that this peft does not know; `merge_weights` of 2023, for example."""
    from dataclasses import fields

    from peft import LoraConfig

    names = {field.name for field in fields(LoraConfig)}
    return {key: value for key, value in config.items() if key in names}


def merged(adapter: AdapterWeights, name: str, weight: Tensor) -> Tensor:
    """The layer `name` with the adapter merged into `weight`, float32; both of one shape unless
    the adapter changes the vocabulary.

    Raises:
        AdapterError: peft cannot do it, because the shapes differ for example.
    """
    if name in adapter.whole:
        weight = _blended(weight, adapter.whole[name].float(), adapter.strength)
    if name in adapter.layers:
        weight = _added(adapter, name, weight)
    return weight


def _blended(old: Tensor, new: Tensor, strength: float) -> Tensor:
    """`new` at some strength; rows that `old` does not have are new whatever the strength."""
    if strength == 1.0:
        return new
    blend, shared = new.clone(), min(len(old), len(new))
    blend[:shared] = old[:shared].lerp(new[:shared], strength)
    return blend


def _added(adapter: AdapterWeights, name: str, weight: Tensor) -> Tensor:
    from peft import inject_adapter_in_model, set_peft_model_state_dict

    try:
        with warnings.catch_warnings():
            # That patterns match no layer of the tree: they are other layers'.
            warnings.simplefilter("ignore")
            tree = inject_adapter_in_model(adapter.config, _tree(name, weight))
        held = {f"{name}.{key}": tensor for key, tensor in adapter.layers[name].items()}
        unexpected = set_peft_model_state_dict(tree, held).unexpected_keys
        layer: Any = tree.get_submodule(name)
        layer.scale_layer(adapter.strength)
        layer.merge()
    except Exception as error:  # peft and torch raise whatever they run into
        said = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise adapter_error("merge_failed", layer=name, said=said) from error
    if unexpected:
        raise adapter_error("adapter_weight_unknown", name=unexpected[0])
    result: Tensor = layer.get_base_layer().weight.data
    return result


def _tree(name: str, weight: Tensor) -> Module:
    """Modules inside each other by a dotted name, a linear layer at the end."""
    from torch import nn

    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    root = node = nn.Module()
    *parents, last = name.split(".")
    for parent in parents:
        child = nn.Module()
        node.add_module(parent, child)
        node = child
    node.add_module(last, linear)
    return root
