"""One adapter's folder as peft writes it: read, and made into weights.

It is foreign input: its files are read up to a bound, its patterns matched in linear time, and its
numbers are numbers before anything is computed with them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bounded_files import (
    UnfitFileError,
    open_file,
    parse_json,
    read_text,
    require_inside,
)
from model.diagnostics import adapter_error
from model.errors import AdapterError, ModelFolderError
from model.folders.patterns import MAX_PATTERNS, UnfitPatternError, module_matcher
from model.tensor_names import ATTENTION, LINEAR_PATHS, MLP, layer_path
from model.translations import LocalizedText

if TYPE_CHECKING:
    from torch import Tensor

    from model.folders.weights import LazyTensor
    from model.layers.lora import Lora, LoraMaker, LoraPair

CONFIG = "adapter_config.json"
CARD = "linly_adapter.json"  # ours: {"template": …, "description": …}
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
FILES = (CONFIG, CARD, *WEIGHTS)
PREFIX = r"^(?:base_model\.model\.)?"
PAIR_NAME = re.compile(
    PREFIX
    + rf"model\.layers\.(\d+)\.(?:{ATTENTION}|{MLP})\.(\w+)\.lora_(A|B)(?:\.default)?\.weight$"
)
WHOLE_NAME = re.compile(
    PREFIX + r"(?:model\.)?(embed_tokens|lm_head)(?:\.modules_to_save(?:\.default)?)?\.weight$"
)
FLOATS = ("F16", "BF16", "F32", "F64")
MAX_RANK = 65_536  # more than any layer has rows
MAX_ALPHA = 1e6
MAX_OWN_LAYERS = 1000  # names in modules_to_save
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
class AdapterTensors:
    """What a weights file holds: "A" and "B" by layer and module, and whole layers by name. Each
    is read when it is wanted."""

    pairs: dict[Key, dict[str, LazyTensor]] = field(default_factory=dict)
    whole: dict[str, LazyTensor] = field(default_factory=dict)


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
    for name, bound in (("rank_pattern", MAX_RANK), ("alpha_pattern", MAX_ALPHA)):
        _check_patterns(name, config.get(name), bound)
    if config.get("modules_to_save") is not None and not _is_names(config["modules_to_save"]):
        raise _nonsense("modules_to_save")
    return config


def _is_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_OWN_LAYERS
        and all(isinstance(name, str) for name in value)
    )


def _check_patterns(name: str, patterns: Any, bound: float) -> None:
    """Whether these are numbers up to `bound` by regular expressions that can be matched.

    Raises:
        AdapterError: they are something else.
    """
    if patterns is None:
        return
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise _nonsense(name)
    if not all(is_positive(number) and number <= bound for number in patterns.values()):
        raise _nonsense(name)
    for pattern in patterns:
        try:
            module_matcher(pattern)
        except UnfitPatternError as error:
            raise adapter_error("adapter_pattern", key=name, pattern=repr(pattern[:100])) from error


def _nonsense(name: str) -> AdapterError:
    return adapter_error(
        "adapter_unreadable", said=LocalizedText("file_nonsense_in", {"file": CONFIG, "name": name})
    )


def is_number(value: Any) -> bool:
    """Whether `value` is a number that can be computed with: no truth value, no NaN, finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond what floats can be
        return False


def is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def refuse_kind(path: Path, config: Mapping[str, Any]) -> None:
    """Whether what `config` asks for can be served.

    Raises:
        AdapterError: it cannot, and is to be merged into its base.
    """
    for key, what in REFUSED.items():
        if config.get(key):
            raise adapter_error("adapter_kind", what=what, name=path.name)
    if config.get("bias", "none") != "none":
        raise adapter_error("adapter_kind", what=LocalizedText("trained_biases"), name=path.name)
    other = modules_to_save(config) - set(WHOLE)
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

    def pair(key: Key, sides: Mapping[str, LazyTensor]) -> LoraPair:
        a, b = sides["A"].read(), sides["B"].read()
        return maker.make_lora_pair(a, b, scaling(config, key, len(a)))

    whole = {name: maker.make_layer(weight.read()) for name, weight in weights.whole.items()}
    pairs = {key: pair(key, sides) for key, sides in weights.pairs.items()}
    return Lora(pairs, embedding=whole.get("embed_tokens"), head=whole.get("lm_head"))


def digest(path: Path) -> str:
    """sha256 over the configuration and the weights: what the adapter computes, and no more."""
    told = hashlib.sha256(_read_text(path / CONFIG).encode())
    with open_file(weights_file(path)) as file:
        told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()


def module_path(key: Key) -> str:
    """The name that a base's weight has without ".weight", for example of (3, "q_proj")."""
    layer, module = key
    return layer_path(layer, LINEAR_PATHS.get(module, f"{ATTENTION}.{module}"))


def scaling(config: Mapping[str, Any], key: Key, rank: int) -> float:
    """The factor on B A: alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023).

    `alpha_pattern` overrides alpha by a module's name.
    """
    alpha = match_pattern(config, "alpha_pattern", key, config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def match_pattern(config: Mapping[str, Any], patterns: str, key: Key, default: Any) -> Any:
    """A setting that some modules have otherwise, as in peft: the pattern must match the end of
    the dotted name."""
    return by_name(config, patterns, module_path(key), default)


def by_name(config: Mapping[str, Any], patterns: str, name: str, default: Any) -> Any:
    """The same by the dotted name itself."""
    given = config.get(patterns) or {}
    return next((v for pattern, v in given.items() if module_matcher(pattern)(name)), default)


def modules_to_save(config: Mapping[str, Any]) -> set[str]:
    """Names of the layers that the adapter brings whole."""
    return {name.rpartition(".")[2] for name in config.get("modules_to_save") or ()}


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = parse_json(_read_text(file))
    except ValueError as error:
        raise adapter_error("adapter_unreadable", said=f"{file.name}: {error}") from error
    if not isinstance(data, dict):
        said = LocalizedText("file_not_a_json_object", {"file": file.name})
        raise adapter_error("adapter_unreadable", said=said)
    return data


def _read_text(file: Path) -> str:
    try:
        require_inside(file)
        return read_text(file)
    except FileNotFoundError as error:
        raise adapter_error("adapter_file_missing", name=file.name) from error
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise adapter_error("adapter_unreadable", said=f"{file.name}: {said}") from error


def weights_file(path: Path) -> Path:
    """The file with the weights of the adapter in `path`.

    Raises:
        AdapterError: there is none, or it is a link that leads out of the folder.
    """
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise adapter_error("adapter_file_missing", name=WEIGHTS[0])
    try:
        require_inside(file)
    except UnfitFileError as error:
        raise adapter_error("adapter_unreadable", said=error) from error
    return file


def read_weights(path: Path) -> AdapterTensors:
    """All weights of the adapter in `path`.

    Raises:
        AdapterError: the file is torn, or holds something else.
    """
    weights = AdapterTensors()
    for tensor in all_tensors(path):
        if match := PAIR_NAME.match(tensor.name):
            layer, module, side = match.groups()
            weights.pairs.setdefault((int(layer), module), {})[side] = tensor
        elif match := WHOLE_NAME.match(tensor.name):
            weights.whole[match[1]] = tensor
        else:
            raise adapter_error("adapter_weight_unknown", name=tensor.name)
    return weights


def all_tensors(path: Path) -> list[LazyTensor]:
    """All that the adapter in `path` holds, each to be read when it is wanted.

    Raises (and so does each of them when it is read):
        AdapterError: there is nothing, or it is torn.
    """
    from model.folders.weights import list_tensors

    file = weights_file(path)
    try:
        held = list_tensors(file, of_adapter=True)
    except ModelFolderError as error:
        raise _as_adapters(error, file) from error
    kept = [_of_adapter(tensor, file) for tensor in held if ORIGINAL not in tensor.name]
    odd = [tensor.name for tensor in kept if tensor.dtype not in FLOATS]
    if odd:
        raise adapter_error(
            "adapter_unreadable", said=LocalizedText("tensor_type_unserved", {"name": odd[0]})
        )
    return kept


def _of_adapter(tensor: LazyTensor, file: Path) -> LazyTensor:
    """`tensor`, whose reading fails as an adapter's."""
    read = tensor.read

    def reading() -> Tensor:
        try:
            return read()
        except ModelFolderError as error:
            raise _as_adapters(error, file) from error

    return replace(tensor, read=reading)


def _as_adapters(error: ModelFolderError, file: Path) -> AdapterError:
    """A weights file's fault as its adapter's: without the folder, which clients are not told."""
    found = error.text
    if found.code in ("weights_torn", "file_unreadable"):
        return adapter_error("adapter_unreadable", said=found.facts["said"])
    facts = {name: file.name if fact == file else fact for name, fact in found.facts.items()}
    return adapter_error(found.code, **facts)
