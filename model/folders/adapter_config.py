"""Reads and checks adapter_config.json, as peft writes it for a LoRA adapter.

It is foreign input: its patterns are matched in linear time, and its numbers are checked before
anything is computed with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
# Settings with names of modules, or one regular expression.
NAMES = ("target_modules", "exclude_modules", "layers_pattern", "target_parameters")
MAX_NAMES = 10_000  # in target_modules, and layers in layers_to_transform
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
    _check_list("modules_to_save", config.get("modules_to_save"), str, MAX_OWN_LAYERS)
    for name in NAMES:
        if not isinstance(config.get(name), str):
            _check_list(name, config.get(name), str, MAX_NAMES)
    if type(config.get("layers_to_transform")) is not int:
        _check_list("layers_to_transform", config.get("layers_to_transform"), int, MAX_NAMES)
    return config


def _check_list(name: str, value: Any, kind: type, max_length: int) -> None:
    """Checks that `value` is null or false, or a list of values of the type `kind`.

    Raises:
        AdapterError: it is something else, or longer than `max_length`.
    """
    if value is None or value is False:
        return
    if not isinstance(value, list) or len(value) > max_length:
        raise _invalid_value(name)
    if not all(type(entry) is kind for entry in value):
        raise _invalid_value(name)


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
        "adapter_unreadable",
        reason=LocalizedText("file_nonsense_in", {"file": CONFIG, "name": name}),
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


def token_indices(config: Mapping[str, Any], layer: str, shape: Sequence[int]) -> list[int]:
    """Returns the indices of the trained rows of `layer`, embed_tokens or lm_head.

    Args:
        shape: of the tensor with these rows.

    Raises:
        AdapterError: the configuration has other ones.
    """
    indices = config.get("trainable_token_indices")
    if isinstance(indices, dict):
        named = {name.rpartition(".")[2]: entry for name, entry in indices.items()}
        indices = named.get(layer, named.get("embed_tokens"))  # a tied head has the embedding's
    if (
        not isinstance(indices, list)
        or len(indices) != shape[0]
        or not all(type(index) is int and index >= 0 for index in indices)
    ):
        raise adapter_error("adapter_tokens_unfit", layer=layer, rows=shape[0])
    return indices


def read_json_object(file: Path) -> dict[str, Any]:
    """Reads a JSON object from a file of an adapter.

    Raises:
        AdapterError: it is missing or torn.
    """
    try:
        data = parse_json(read_text_file(file))
    except ValueError as error:
        raise adapter_error("adapter_unreadable", reason=f"{file.name}: {error}") from error
    if not isinstance(data, dict):
        problem = LocalizedText("file_not_a_json_object", {"file": file.name})
        raise adapter_error("adapter_unreadable", reason=problem)
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
        raise adapter_error("adapter_unreadable", reason=f"{file.name}: {reason}") from error
