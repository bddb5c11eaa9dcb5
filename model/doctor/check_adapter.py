"""An adapter's folder, looked over before it is used: by itself, and against its base."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.diagnostics import Finding, adapter_error, finding
from model.doctor.vocabulary import check_vocabulary
from model.folders.adapter_config import (
    MAX_ALPHA,
    MAX_RANK,
    Key,
    is_number,
    is_positive,
    module_path,
    module_setting,
    modules_to_save,
    read_config,
    refuse_changed_base,
    refuse_kind,
    scaling,
)
from model.folders.adapter_files import (
    CARD,
    PAIR_NAME,
    WHOLE_NAME,
    AdapterTensors,
    list_adapter_tensors,
    read_card,
    read_weights,
)
from model.folders.base_info import BaseInfo
from model.folders.fingerprint import RELATED, SAME, distance

if TYPE_CHECKING:
    from model.folders.lazy_tensor import LazyTensor

CHINESE_ALPACA = "chinese-alpaca"
MAX_SCALING = 64  # of published adapters; beyond it somebody has mistaken alpha for something


def check_adapter(
    path: Path, base: BaseInfo | None, templates: Collection[str]
) -> Iterator[Finding]:
    """What is wrong with, or worth knowing about, the adapter in `path`.

    Args:
        base: what it has to fit, if that is known.
        templates: names of the prompt templates that there are.

    Raises:
        AdapterError: what is wrong with it keeps from looking further.
    """
    config, card = read_config(path), read_card(path)
    refuse_kind(path, config)
    _check_settings(config)
    weights = read_weights(path)
    if not weights.pairs and not weights.whole:
        raise adapter_error("adapter_empty")
    _check_pairs(config, weights)
    if base is not None:
        for key, sides in weights.pairs.items():
            _check_fit(key, sides, base)
        yield from check_vocabulary(path, weights.whole, base)
    _check_numbers(weights)  # which reads them: all sizes are known to be sound by now
    if base is not None:
        yield from _check_origin(config, card, base)
    yield from _check_targets(config, weights)
    own = base is not None and any(w.shape[0] != base.rows for w in weights.whole.values())
    yield from _check_template(card, templates, own)


def check_for_merging(path: Path, base: BaseInfo) -> None:
    """Whether the adapter in `path` can be merged into `base`: kinds that are not served can be.

    Raises:
        AdapterError: it cannot, or it would be nonsense.
    """
    config, card = read_config(path), read_card(path)
    refuse_changed_base(config)
    _check_settings(config)
    held = {tensor.name: tensor for tensor in list_adapter_tensors(path)}
    if not held:
        raise adapter_error("adapter_empty")
    pairs: dict[Key, dict[str, LazyTensor]] = {}
    for name, tensor in held.items():
        if match := PAIR_NAME.match(name):
            pairs.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    for key, sides in pairs.items():
        _check_pair(key, sides)
        _check_fit(key, sides, base)
    whole = {found[1]: held[name] for name in held if (found := WHOLE_NAME.match(name))}
    if not _check_finite(held.items(), "lora_B") and not whole:
        raise adapter_error("adapter_zero")
    # Both tell warnings too, which whoever merges has seen when checking.
    list(check_vocabulary(path, whole, base))
    list(_check_origin(config, card, base))


def _check_settings(config: Mapping[str, Any]) -> None:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if alpha is None:
        raise adapter_error("alpha_missing")
    if not is_positive(alpha) or alpha > MAX_ALPHA:
        raise adapter_error("alpha_unsound", alpha=repr(alpha))
    if rank is not None and not (type(rank) is int and 0 < rank <= MAX_RANK):
        raise adapter_error("rank_unsound", rank=repr(rank))


def _check_pairs(config: Mapping[str, Any], weights: AdapterTensors) -> None:
    """Whether the weights are whole, as far as their sizes tell.

    Raises:
        AdapterError: they are not.
    """
    for key, sides in weights.pairs.items():
        _check_pair(key, sides)
        _check_rank(config, key, sides)
    missing = modules_to_save(config) - set(weights.whole)
    if missing:
        raise adapter_error("adapter_own_missing", names=" and ".join(sorted(missing)))


def _check_numbers(weights: AdapterTensors) -> None:
    """Whether the weights are numbers, and do anything. Reads them, one after the other.

    Raises:
        AdapterError: they are not, or do not.
    """
    if not _check_finite(_named(weights), "lora_B") and not weights.whole:
        raise adapter_error("adapter_zero")


def _check_finite(held: Iterable[tuple[str, LazyTensor]], telling: str) -> bool:
    """Whether any of those whose names hold `telling` is not zero throughout.

    Raises:
        AdapterError: one holds what is no number.
    """
    does_something = False
    for name, tensor in held:
        values = tensor.read()
        if not values.isfinite().all():
            raise adapter_error("adapter_not_finite", name=name)
        does_something = does_something or (telling in name and bool(values.any()))
    return does_something


def _check_pair(key: Key, sides: Mapping[str, LazyTensor]) -> None:
    layer, module = key
    if set(sides) != {"A", "B"}:
        raise adapter_error("adapter_half_pair", layer=layer, module=module)
    if any(len(side.shape) != 2 for side in sides.values()):
        raise adapter_error("adapter_no_matrices", layer=layer, module=module)


def _check_rank(config: Mapping[str, Any], key: Key, sides: Mapping[str, LazyTensor]) -> None:
    told, found = module_setting(config, "rank_pattern", key, config.get("r")), sides["A"].shape[0]
    if told is not None and told != found:
        raise adapter_error("rank_differs", layer=key[0], module=key[1], found=found, told=told)


def _named(weights: AdapterTensors) -> Iterator[tuple[str, LazyTensor]]:
    for key, sides in weights.pairs.items():
        for side, tensor in sides.items():
            yield f"lora_{side} of layer {key[0]} {key[1]}", tensor
    yield from weights.whole.items()


def _check_fit(key: Key, sides: Mapping[str, LazyTensor], base: BaseInfo) -> None:
    shape = base.tensors.get(f"{module_path(key)}.weight")
    layer, module = key
    if shape is None:
        raise adapter_error("adapter_no_layer", layer=layer, module=module, layers=base.num_layers)
    outputs, inputs = shape
    a, b = sides["A"].shape, sides["B"].shape
    if a[1] != inputs or b[0] != outputs or a[0] != b[1]:
        raise adapter_error(
            "adapter_shape", layer=layer, module=module,
            found=f"{a[1]} -> {b[0]}", base=f"{inputs} -> {outputs}",
        )  # fmt: skip


def _check_origin(
    config: Mapping[str, Any], card: Mapping[str, Any], base: BaseInfo
) -> Iterator[Finding]:
    """Whether this is the base that it was trained on: by its weights if they were noted, else by
    its name."""
    trained_on = card.get("base_model") or config.get("base_model_name_or_path")
    name = str(trained_on).rstrip("/").replace("\\", "/").rpartition("/")[2]
    noted = card.get("fingerprint")
    if isinstance(noted, list) and all(map(is_number, noted)) and noted and base.fingerprint:
        apart = distance(noted, base.fingerprint)
        if not apart <= RELATED:
            raise adapter_error("adapter_other_base", base=base.name, trained_on=name)
        if apart > SAME:
            yield finding(
                "adapter_base_changed", base=base.name, trained_on=name, percent=100 * apart
            )
    elif trained_on and name.casefold() != base.name.casefold():
        yield finding("adapter_base_name", base=base.name, trained_on=name)


def _check_targets(config: Mapping[str, Any], weights: AdapterTensors) -> Iterator[Finding]:
    modules = sorted({module for _, module in weights.pairs})
    layers = {layer for layer, _ in weights.pairs}
    ranks = sorted({sides["A"].shape[0] for sides in weights.pairs.values()})
    yield finding(
        "adapter_targets", count=len(weights.pairs), modules=", ".join(modules) or "none",
        layers=len(layers), ranks=", ".join(map(str, ranks)) or "none",
    )  # fmt: skip
    told = config.get("target_modules")
    named = {str(name).rpartition(".")[2] for name in told} if isinstance(told, list) else set()
    without = sorted(named - set(modules) - set(weights.whole))
    if without:
        yield finding("target_without_weights", names=", ".join(without))
    largest = max(
        (scaling(config, key, sides["A"].shape[0]) for key, sides in weights.pairs.items()),
        default=0.0,
    )
    if largest > MAX_SCALING:
        yield finding("scaling_large", scaling=largest)


def usual_template(own_vocabulary: bool, templates: Collection[str]) -> str | None:
    """The template of an adapter that tells none; None for the base's. An own vocabulary does not
    have the control tokens of its base's template, and is Chinese-Alpaca's as far as is known."""
    return CHINESE_ALPACA if own_vocabulary and CHINESE_ALPACA in templates else None


def _check_template(
    card: Mapping[str, Any], templates: Collection[str], own_vocabulary: bool
) -> Iterator[Finding]:
    template = card.get("template")
    if template is None:
        guessed = usual_template(own_vocabulary, templates)
        if guessed:
            yield finding("template_guessed", file=CARD, used=guessed)
        else:
            yield finding("template_untold", file=CARD)
    elif not isinstance(template, str) or template not in templates:
        raise adapter_error("template_unknown", template=repr(template))
