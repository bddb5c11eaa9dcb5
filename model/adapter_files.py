"""One adapter's folder as peft writes it: read, checked against the base, and made into weights."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.types import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

    from model.layers.llama import LlamaShape
    from model.layers.lora import Lora, LoraMaker, LoraPair

CONFIG = "adapter_config.json"
CARD = "linly_adapter.json"  # ours: {"template": …, "description": …}
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
FILES = (CONFIG, CARD, *WEIGHTS)
PREFIX = r"^(?:base_model\.model\.)?"
PAIR_NAME = re.compile(
    PREFIX + r"model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)\.lora_(A|B)(?:\.default)?\.weight$"
)
WHOLE_NAME = re.compile(
    PREFIX + r"(?:model\.)?(embed_tokens|lm_head)(?:\.modules_to_save(?:\.default)?)?\.weight$"
)
WHOLE = ("embed_tokens", "lm_head")  # layers of which an adapter may bring its own
# Settings of peft's LoraConfig that change what the adapter computes, and are not served yet.
REFUSED = {
    "use_dora": "DoRA",
    "trainable_token_indices": "trainable tokens",
    "lora_bias": "a bias in the update",
    "fan_in_fan_out": "transposed weights",
    "alora_invocation_tokens": "activation by tokens (aLoRA)",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow routing",
    "layer_replication": "replicated layers",
    "target_parameters": "updates of bare parameters",
}
# Kinds of `init_lora_weights` that take the first weights out of the base, on loading too.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")

Key = tuple[int, str]  # layer and module, for example (3, "q_proj")


@dataclass
class Weights:
    """What a weights file holds: "A" and "B" by layer and module, and whole layers by name."""

    pairs: dict[Key, dict[str, Tensor]] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)


def read_card(path: Path) -> dict[str, Any]:
    """What we noted about the adapter in `path`; empty if nobody did."""
    file = path / CARD
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def check(path: Path, shape: LlamaShape | None) -> None:
    """Whether the adapter in `path` can be served, on a base of `shape` if that is known.

    Raises:
        AdapterError: it cannot. A torn file makes the parsers raise anything else, too.
    """
    config, weights = _read_config(path), _read_weights(path)
    if not weights.pairs and not weights.whole:
        raise AdapterError("its weights file is empty: they were lost when it was saved")
    torn = next((key for key, sides in weights.pairs.items() if set(sides) != {"A", "B"}), None)
    if torn:
        raise AdapterError(f"layer {torn[0]} {torn[1]} lacks one of lora_A and lora_B")
    if not weights.whole and not any(sides["B"].any() for sides in weights.pairs.values()):
        raise AdapterError("every lora_B is zero, so it would change nothing: train it again")
    missing = _own_layers(config) - set(weights.whole)
    if missing:
        raise AdapterError(f"its own {' and '.join(sorted(missing))} was not saved with it")
    if shape is not None:
        for (layer, module), sides in weights.pairs.items():
            _check_pair(layer, module, sides, shape)
        for name, weight in weights.whole.items():
            _check_whole(name, weight, shape)


def load(path: Path, maker: LoraMaker) -> Lora:
    """The weights of the adapter in `path`, which was checked, as `maker` makes them.

    Raises:
        AdapterError: it has changed since, for the worse. As in `check`.
    """
    from model.layers.lora import Lora

    config, weights = _read_config(path), _read_weights(path)

    def pair(key: Key, sides: Mapping[str, Tensor]) -> LoraPair:
        factor = scaling(config, key, len(sides["A"]))
        return maker.own_pair(sides["A"], sides["B"], factor)

    whole = {name: maker.own_layer(weight) for name, weight in weights.whole.items()}
    pairs = {key: pair(key, sides) for key, sides in weights.pairs.items()}
    return Lora(pairs, embedding=whole.get("embed_tokens"), head=whole.get("lm_head"))


def digest(path: Path) -> str:
    """sha256 over the configuration and the weights: what the adapter computes, and no more."""
    told = hashlib.sha256((path / CONFIG).read_bytes())
    with _weights_file(path).open("rb") as file:
        told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()


def module_sizes(shape: LlamaShape) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer that an adapter may change."""
    hidden, wide = shape.hidden_size, shape.intermediate_size
    q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return {
        "q_proj": (hidden, q),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (q, hidden),
        "gate_proj": (hidden, wide),
        "up_proj": (hidden, wide),
        "down_proj": (wide, hidden),
    }


def scaling(config: Mapping[str, Any], key: Key, rank: int) -> float:
    """The factor on B A: alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023).

    `alpha_pattern` overrides alpha by a module's name, as in peft: the pattern must match the end
    of the dotted name.
    """
    layer, module = key
    block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    dotted = f"model.layers.{layer}.{block}.{module}"
    patterns = (config.get("alpha_pattern") or {}).items()
    matching = (alpha for p, alpha in patterns if re.match(rf"(.*\.)?({p})$", dotted))
    alpha = next(matching, config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"it is of type {kind}, and only LORA is served")
    for key, what in REFUSED.items():
        if config.get(key):
            raise AdapterError(f"it uses {what}, which is not served: merge it into the base")
    other = _own_layers(config) - set(WHOLE)
    if other:
        raise AdapterError(f"it brings its own {min(other)}, and only {' and '.join(WHOLE)} may be")
    init = str(config.get("init_lora_weights")).lower()
    if init.startswith(CHANGES_BASE):
        raise AdapterError(f"it was made by {init}, over a base changed for it: merge it there")
    if config.get("bias", "none") != "none":
        raise AdapterError("it trains biases, which is not served: merge it into the base")
    if "lora_alpha" not in config:
        raise AdapterError(f"{CONFIG} names no lora_alpha")
    return config


def _own_layers(config: Mapping[str, Any]) -> set[str]:
    return {name.rpartition(".")[2] for name in config.get("modules_to_save") or ()}


def _weights_file(path: Path) -> Path:
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise AdapterError(f"it has no {WEIGHTS[0]}")
    return file


def _tensors(file: Path) -> Iterable[tuple[str, Tensor]]:
    from safetensors.torch import load_file

    from model.weights import read_tensors

    # In one go, where bases are read piece by piece: an adapter is small, and somebody waits.
    return load_file(file).items() if file.suffix == ".safetensors" else read_tensors((file,))


def _read_weights(path: Path) -> Weights:
    weights = Weights()
    for name, tensor in _tensors(_weights_file(path)):
        if match := PAIR_NAME.match(name):
            layer, module, side = match.groups()
            weights.pairs.setdefault((int(layer), module), {})[side] = tensor
        elif match := WHOLE_NAME.match(name):
            weights.whole[match[1]] = tensor
        else:
            raise AdapterError(f"it has a weight that is not served: {name}")
    return weights


def _check_pair(layer: int, module: str, sides: Mapping[str, Tensor], shape: LlamaShape) -> None:
    inputs, outputs = module_sizes(shape).get(module, (None, None))
    if inputs is None or layer >= shape.num_layers:
        raise AdapterError(f"the base has no {module} in layer {layer}: it belongs to another base")
    if sides["A"].dim() != 2 or sides["B"].dim() != 2:
        raise AdapterError(f"layer {layer} {module} is no pair of matrices")
    rank = sides["A"].shape[0]
    if tuple(sides["A"].shape) != (rank, inputs) or tuple(sides["B"].shape) != (outputs, rank):
        raise AdapterError(
            f"layer {layer} {module} is made for {sides['A'].shape[1]} -> {sides['B'].shape[0]} "
            f"and the base has {inputs} -> {outputs}: it belongs to another base"
        )


def _check_whole(name: str, weight: Tensor, shape: LlamaShape) -> None:
    if tuple(weight.shape) == (shape.vocab_size, shape.hidden_size):
        return
    sizes = " x ".join(map(str, weight.shape))
    what = f"its own {name} is {sizes} and the base's {shape.vocab_size} x {shape.hidden_size}"
    if weight.dim() == 2 and weight.shape[1] == shape.hidden_size:
        raise AdapterError(f"{what}: it changes the vocabulary, so merge it into the base")
    raise AdapterError(f"{what}: it belongs to another base")
