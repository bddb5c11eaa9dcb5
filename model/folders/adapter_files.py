"""One adapter's folder as peft writes it: read, and made into weights."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.findings import adapter_error
from model.types import AdapterError, ModelFolderError

if TYPE_CHECKING:
    from torch import Tensor

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
FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")
ORIGINAL = ".original_module."  # the base's own layer, which peft saves beside one of another size
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
    """What we noted about the adapter in `path`; empty if nobody did.

    Raises:
        AdapterError: it is torn.
    """
    return _read_json(path / CARD) if (path / CARD).is_file() else {}


def read_config(path: Path) -> dict[str, Any]:
    """The adapter_config.json in `path`, of a LoRA adapter.

    Raises:
        AdapterError: it is missing or torn, or of another kind.
    """
    config = _read_json(path / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise adapter_error("adapter_not_lora", kind=kind)
    for name, sane in (("rank_pattern", _is_pattern), ("alpha_pattern", _is_pattern),
                       ("modules_to_save", _is_list_of_names)):  # fmt: skip
        if config.get(name) is not None and not sane(config[name]):
            said = f"{CONFIG} has nonsense in {name}"
            raise adapter_error("adapter_unreadable", said=said)
    return config


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_pattern(value: Any) -> bool:
    """Numbers by regular expressions."""
    try:
        return all(re.compile(key) and number > 0 for key, number in value.items())
    except (AttributeError, TypeError, re.error):
        return False


def refuse_kind(path: Path, config: Mapping[str, Any]) -> None:
    """Whether what `config` asks for can be served.

    Raises:
        AdapterError: it cannot, and is to be merged into its base.
    """
    for key, what in REFUSED.items():
        if config.get(key):
            raise adapter_error("adapter_kind", what=what, name=path.name)
    if config.get("bias", "none") != "none":
        raise adapter_error("adapter_kind", what="trained biases", name=path.name)
    other = own_layers(config) - set(WHOLE)
    if other:
        raise adapter_error("adapter_other_layer", layer=min(other), name=path.name)
    refuse_changed_base(config)


def refuse_changed_base(config: Mapping[str, Any]) -> None:
    """Whether the adapter was made over its base as it is.

    Raises:
        AdapterError: it took its first weights out of the base.
    """
    init = str(config.get("init_lora_weights")).lower()
    if init.startswith(CHANGES_BASE):
        raise adapter_error("adapter_changes_base", init=init)


def load(path: Path, maker: LoraMaker) -> Lora:
    """The weights of the adapter in `path`, which was checked, as `maker` makes them.

    Raises:
        AdapterError: it has changed since, for the worse.
    """
    from model.layers.lora import Lora

    config, weights = read_config(path), read_weights(path)

    def pair(key: Key, sides: Mapping[str, Tensor]) -> LoraPair:
        factor = scaling(config, key, len(sides["A"]))
        return maker.own_pair(sides["A"], sides["B"], factor)

    whole = {name: maker.own_layer(weight) for name, weight in weights.whole.items()}
    pairs = {key: pair(key, sides) for key, sides in weights.pairs.items()}
    return Lora(pairs, embedding=whole.get("embed_tokens"), head=whole.get("lm_head"))


def digest(path: Path) -> str:
    """sha256 over the configuration and the weights: what the adapter computes, and no more."""
    told = hashlib.sha256((path / CONFIG).read_bytes())
    with weights_file(path).open("rb") as file:
        told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()


def dotted(key: Key) -> str:
    """The name that a base's weight has without ".weight", for example of (3, "q_proj")."""
    layer, module = key
    block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{layer}.{block}.{module}"


def scaling(config: Mapping[str, Any], key: Key, rank: int) -> float:
    """The factor on B A: alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023).

    `alpha_pattern` overrides alpha by a module's name.
    """
    alpha = by_pattern(config, "alpha_pattern", key, config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def by_pattern(config: Mapping[str, Any], patterns: str, key: Key, default: Any) -> Any:
    """A setting that some modules have otherwise, as in peft: the pattern must match the end of
    the dotted name."""
    name = dotted(key)
    matching = (
        v for p, v in (config.get(patterns) or {}).items() if re.match(rf"(.*\.)?({p})$", name)
    )
    return next(matching, default)


def own_layers(config: Mapping[str, Any]) -> set[str]:
    """Names of the layers that the adapter brings whole."""
    return {name.rpartition(".")[2] for name in config.get("modules_to_save") or ()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise adapter_error("adapter_file_missing", name=file.name) from error
    except (OSError, ValueError, RecursionError) as error:
        said = str(error).replace(str(file), file.name)
        raise adapter_error("adapter_unreadable", said=f"{file.name}: {said}") from error
    if not isinstance(data, dict):
        said = f"{file.name} holds no JSON object"
        raise adapter_error("adapter_unreadable", said=said)
    return data


def weights_file(path: Path) -> Path:
    """The file with the weights of the adapter in `path`.

    Raises:
        AdapterError: there is none.
    """
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise adapter_error("adapter_file_missing", name=WEIGHTS[0])
    return file


def read_weights(path: Path) -> Weights:
    """All weights of the adapter in `path`.

    Raises:
        AdapterError: the file is torn, or holds something else.
    """
    weights = Weights()
    for name, tensor in all_tensors(path):
        if match := PAIR_NAME.match(name):
            layer, module, side = match.groups()
            weights.pairs.setdefault((int(layer), module), {})[side] = tensor
        elif match := WHOLE_NAME.match(name):
            weights.whole[match[1]] = tensor
        else:
            raise adapter_error("adapter_weight_unknown", name=name)
    return weights


def all_tensors(path: Path) -> Iterable[tuple[str, Tensor]]:
    """Name and tensor of all that the adapter in `path` holds.

    Raises:
        AdapterError: there is nothing, or it is torn.
    """
    from safetensors.torch import load_file

    from model.folders.weights import read_tensors, refuse_lfs_pointer

    file = weights_file(path)
    try:
        refuse_lfs_pointer(file)
        # In one go, where bases are read piece by piece: an adapter is small, and somebody waits.
        held = load_file(file).items() if file.suffix == ".safetensors" else read_tensors((file,))
        kept = [(name, tensor) for name, tensor in held if ORIGINAL not in name]
    except ModelFolderError as error:
        raise AdapterError(error.message, error.remedy, error.finding) from error
    except Exception as error:  # a torn file makes the parsers raise anything
        said = (str(error).splitlines() or [type(error).__name__])[0]
        said = said.replace(str(file), file.name)
        raise adapter_error("adapter_unreadable", said=said) from error
    odd = [name for name, tensor in kept if str(tensor.dtype) not in FLOATS]
    if odd:
        raise adapter_error("adapter_unreadable", said=f"{odd[0]} is of no type that is served")
    return kept
