"""Reads and checks adapter_config.json, as peft writes it for a LoRA adapter.

It is foreign input: its patterns are matched in linear time, and its numbers are checked before
anything is computed with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.bounded_files import parse_json, read_text, require_inside
from model.diagnostics import adapter_error
from model.errors import AdapterError
from model.folders.patterns import MAX_PATTERNS, UnfitPatternError, module_matcher
from model.tensor_names import ATTENTION, LINEAR_PATHS, layer_path
from model.translations import LocalizedText

CONFIG = "adapter_config.json"
MAX_RANK = 65_536  # more than any layer has rows
MAX_ALPHA = 1e6
MAX_OWN_LAYERS = 1000  # names in modules_to_save
WHOLE = ("embed_tokens", "lm_head")  # layers that an adapter may replace as a whole
# Settings of peft's LoraConfig that change what the adapter computes, and are not supported:
# the key, and its name in the error message.
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
# Kinds of `init_lora_weights` that subtract the initial weights from the base, also on loading.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")

Key = tuple[int, str]  # layer and module, for example (3, "q_proj")


def read_config(path: Path) -> dict[str, Any]:
    """Reads the adapter_config.json of the LoRA adapter in `path`.

    Raises:
        AdapterError: it is missing, torn, or of another kind of adapter.
    """
    config = read_json_object(path / CONFIG)
    peft_type = config.get("peft_type")
    if peft_type != "LORA":
        raise adapter_error("adapter_not_lora", kind=peft_type)
    for name, bound in (("rank_pattern", MAX_RANK), ("alpha_pattern", MAX_ALPHA)):
        _check_patterns(name, config.get(name), bound)
    if config.get("modules_to_save") is not None and not _is_name_list(config["modules_to_save"]):
        raise _invalid_value("modules_to_save")
    return config


def _is_name_list(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_OWN_LAYERS
        and all(isinstance(name, str) for name in value)
    )


def _check_patterns(name: str, patterns: Any, bound: float) -> None:
    """Checks that `patterns` maps regular expressions that can be matched to numbers up to `bound`.

    Raises:
        AdapterError: it does not.
    """
    if patterns is None:
        return
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise _invalid_value(name)
    if not all(is_positive(number) and number <= bound for number in patterns.values()):
        raise _invalid_value(name)
    for pattern in patterns:
        try:
            module_matcher(pattern)
        except UnfitPatternError as error:
            raise adapter_error("adapter_pattern", key=name, pattern=repr(pattern[:100])) from error


def _invalid_value(name: str) -> AdapterError:
    return adapter_error(
        "adapter_unreadable", said=LocalizedText("file_nonsense_in", {"file": CONFIG, "name": name})
    )


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number: no boolean, no NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that is too large for a float
        return False


def is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def refuse_kind(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses the kinds of adapters that are not served.

    Raises:
        AdapterError: it is one; the remedy is to merge it into its base.
    """
    for key, feature in REFUSED.items():
        if config.get(key):
            raise adapter_error("adapter_kind", what=feature, name=path.name)
    if config.get("bias", "none") != "none":
        raise adapter_error("adapter_kind", what=LocalizedText("trained_biases"), name=path.name)
    other = modules_to_save(config) - set(WHOLE)
    if other:
        raise adapter_error("adapter_other_layer", layer=min(other), name=path.name)
    refuse_changed_base(config)


def refuse_changed_base(config: Mapping[str, Any]) -> None:
    """Refuses an adapter whose training changed the weights of the base.

    Raises:
        AdapterError: its initial weights were subtracted from the base.
    """
    init = str(config.get("init_lora_weights")).lower()
    if init.startswith(CHANGES_BASE):
        raise adapter_error("adapter_changes_base", init=init)


def module_path(key: Key) -> str:
    """Returns the name of the base's weight for a key such as (3, "q_proj"), without ".weight"."""
    layer, module = key
    return layer_path(layer, LINEAR_PATHS.get(module, f"{ATTENTION}.{module}"))


def scaling(config: Mapping[str, Any], key: Key, rank: int) -> float:
    """Returns the factor on B A: alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski
    2023). `alpha_pattern` overrides alpha for some modules.
    """
    alpha = module_setting(config, "alpha_pattern", key, config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def module_setting(config: Mapping[str, Any], patterns: str, key: Key, default: Any) -> Any:
    """Returns the setting of one module, as in peft.

    Args:
        config: the adapter_config.json.
        patterns: key of the map in `config` that overrides the setting for some modules. A pattern
            must match the end of the module's dotted name.
        key: layer and module.
        default: for modules that no pattern matches.
    """
    return setting_by_name(config, patterns, module_path(key), default)


def setting_by_name(config: Mapping[str, Any], patterns: str, name: str, default: Any) -> Any:
    """Returns the same setting by the module's dotted name."""
    overrides = config.get(patterns) or {}
    return next((v for pattern, v in overrides.items() if module_matcher(pattern)(name)), default)


def modules_to_save(config: Mapping[str, Any]) -> set[str]:
    """Returns the names of the layers that the adapter replaces as a whole."""
    return {name.rpartition(".")[2] for name in config.get("modules_to_save") or ()}


def read_json_object(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file of an adapter.

    Raises:
        AdapterError: it is missing or torn.
    """
    try:
        data = parse_json(read_text_file(file))
    except ValueError as error:
        raise adapter_error("adapter_unreadable", said=f"{file.name}: {error}") from error
    if not isinstance(data, dict):
        problem = LocalizedText("file_not_a_json_object", {"file": file.name})
        raise adapter_error("adapter_unreadable", said=problem)
    return data


def read_text_file(file: Path) -> str:
    """Reads a text file of an adapter.

    Raises:
        AdapterError: it is missing, unreadable, or a link that leads out of the folder.
    """
    try:
        require_inside(file)
        return read_text(file)
    except FileNotFoundError as error:
        raise adapter_error("adapter_file_missing", name=file.name) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise adapter_error("adapter_unreadable", said=f"{file.name}: {reason}") from error
