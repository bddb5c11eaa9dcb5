"""Tells which modules of the base an adapter_config.json names, as peft does.

peft leaves out weights of other modules, so a folder whose two files do not belong together would
compute something else there than here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from model.diagnostics import adapter_error
from model.folders.patterns import UnfitPatternError, compile_pattern

ALL_LINEAR = "all-linear"  # every linear layer but the head
LAYER_INDEX = re.compile(r"^.*?\.[^.]*\.(\d+)\.")


def check_targets(config: Mapping[str, Any], modules: Iterable[str]) -> None:
    """Checks that adapter_config.json names all `modules`, those with weights, by their dotted
    names.

    Raises:
        AdapterError: it leaves one out.
    """
    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    for module in modules:
        if excluded and _matches(excluded, module, unfit=False):
            raise adapter_error("adapter_not_target", module=module, key="exclude_modules")
        if not _is_target(config, targets, module):
            raise adapter_error("adapter_not_target", module=module, key="target_modules")
        if isinstance(targets, list) and not _in_layers(config, module):
            raise adapter_error("adapter_not_target", module=module, key="layers_to_transform")


def _is_target(config: Mapping[str, Any], targets: Any, module: str) -> bool:
    parameters = config.get("target_parameters")
    if parameters and _matches(parameters, f"{module}.weight", unfit=True):
        return True
    if targets is None:  # written by another program: peft writes the modules that it chose
        return not parameters
    return targets == ALL_LINEAR or _matches(targets, module, unfit=True)


def _matches(names: str | list[str], module: str, unfit: bool) -> bool:
    """Whether `names` has the name `module` or the end of it after a dot, or is a regular
    expression for all of it.

    `unfit` is the answer for an expression that needs backtracking: peft has applied it when it
    saved the adapter, so the weights tell.
    """
    if isinstance(names, str):
        try:
            return compile_pattern(rf"^(?:{names})$").match(module) is not None
        except UnfitPatternError:
            return unfit
    parts = module.split(".")
    return any(".".join(parts[start:]) in names for start in range(len(parts)))


def _in_layers(config: Mapping[str, Any], module: str) -> bool:
    """Whether the module is in a layer that `layers_to_transform` has; all are if it is empty."""
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or []
    try:
        index = _layer_index([patterns] if isinstance(patterns, str) else patterns, module)
    except UnfitPatternError:
        return True
    return index in (layers if isinstance(layers, list) else [layers])


def _layer_index(patterns: list[str], module: str) -> int | None:
    """The number after the first name that one of `patterns` describes; after any if none does."""
    if not patterns:
        match = LAYER_INDEX.match(module)
        return int(match[1]) if match else None
    expressions = (
        compile_pattern(rf"^(?:.*?\.)?(?:{name})\.(?P<index>\d+)\.") for name in patterns
    )
    matches = (expression.match(module) for expression in expressions)
    return next((int(match["index"]) for match in matches if match), None)
