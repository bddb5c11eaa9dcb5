"""Checks an adapter's folder before it is used: alone, and against its base."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.diagnostics import Finding, adapter_error, finding
from model.doctor.chat_format import own_template
from model.doctor.check_merge import check_merged_tensors
from model.doctor.vocabulary import check_vocabulary, replaces_vocabulary
from model.errors import AdapterError
from model.folders.adapter_config import (
    MAX_ALPHA,
    MAX_RANK,
    Key,
    is_number,
    is_positive,
    module_path,
    module_setting,
    read_config,
    scaling,
)
from model.folders.adapter_files import (
    CARD,
    PAIR_NAME,
    AdapterTensors,
    list_adapter_tensors,
    read_card,
    read_weights,
    replaced_tensor,
)
from model.folders.adapter_kinds import (
    WHOLE,
    modules_to_save,
    refuse_unmergeable,
    refuse_unserved,
    unknown_settings,
)
from model.folders.adapter_targets import check_targets
from model.folders.base_info import BaseInfo
from model.folders.fingerprint import RELATED, SAME, distance

if TYPE_CHECKING:
    from model.folders.lazy_tensor import LazyTensor
    from model.text.prompt_template import PromptTemplate

CHINESE_ALPACA = "chinese-alpaca"
MERGE_ADVISED = ("adapter_kind", "adapter_other_layer")
BEGIN_AS_ZERO = ("lora_B", "lora_embedding_A")  # in the names of tensors
MAX_SCALING = 64  # of published adapters; with more, alpha is probably a mistake


def check_adapter(
    path: Path, base: BaseInfo | None, templates: Collection[str]
) -> Iterator[Finding]:
    """Yields findings about the adapter in `path`.

    Args:
        base: the base that it has to fit; None if that is unknown.
        templates: names of the existing prompt templates.

    Raises:
        AdapterError: it has an error after which no other check makes sense.
    """
    config, card = read_config(path), read_card(path)
    weights = _read_served(path, config, base)
    if not weights.pairs and not weights.whole:
        raise adapter_error("adapter_empty")
    _check_pairs(config, weights)
    vocabulary: list[Finding] = []
    if base is not None:
        for key, sides in weights.pairs.items():
            _check_fit(key, sides, base)
        vocabulary += check_vocabulary(path, weights.whole, base)
    yield from vocabulary
    check_targets(config, map(module_path, weights.pairs))
    _check_numbers(weights)  # after the sizes are checked, because it reads the weights
    if base is not None:
        yield from _check_origin(config, card, base)
    yield from unknown_settings(config)
    yield from _check_targets(config, weights)
    replaced = replaces_vocabulary(vocabulary)
    yield from _check_template(card, templates, replaced, own_template(path))


def _read_served(path: Path, config: Mapping[str, Any], base: BaseInfo | None) -> AdapterTensors:
    """Lists the weights of an adapter of a kind that is served.

    Raises:
        AdapterError: it is of another kind. If the remedy is to merge it, it can be merged.
    """
    try:
        refuse_unserved(path, config)
        _check_settings(config)
        return read_weights(path)
    except AdapterError as error:
        if error.text.code in MERGE_ADVISED and base is not None:
            check_for_merging(path, base)
        raise


def check_for_merging(path: Path, base: BaseInfo) -> None:
    """Checks that the adapter in `path` can be merged into `base`, also if it cannot be served.

    Raises:
        AdapterError: it cannot be merged, or the result would be wrong.
    """
    config, card = read_config(path), read_card(path)
    refuse_unmergeable(config)
    _check_settings(config)
    tensors = list_adapter_tensors(path)
    if not tensors:
        raise adapter_error("adapter_empty")
    _check_merged_pairs(config, tensors, base)
    replaces = check_merged_tensors(config, tensors, base)
    if not (_check_finite((tensor.name, tensor) for tensor in tensors) or replaces):
        raise adapter_error("adapter_zero")
    # Only for their errors: the command `check` shows their warnings.
    list(check_vocabulary(path, _own_vocabulary(tensors), base))
    list(_check_origin(config, card, base))


def _check_merged_pairs(
    config: Mapping[str, Any], tensors: Iterable[LazyTensor], base: BaseInfo
) -> None:
    """Checks the pairs "A" and "B" of linear layers among `tensors`, as for serving.

    Raises:
        AdapterError: one of them does not fit.
    """
    pairs: dict[Key, dict[str, LazyTensor]] = {}
    for tensor in tensors:
        if match := PAIR_NAME.match(tensor.name):
            pairs.setdefault((int(match[1]), match[2]), {})[match[3]] = tensor
    for key, sides in pairs.items():
        _check_pair(key, sides)
        _check_fit(key, sides, base)
    check_targets(config, map(module_path, pairs))


def _own_vocabulary(tensors: Iterable[LazyTensor]) -> dict[str, LazyTensor]:
    """The embedding and the head among `tensors` that replace the base's."""
    replaced = {replaced_tensor(tensor.name): tensor for tensor in tensors}
    names = {name: f"{layer}.weight" for name, layer in WHOLE.items()}
    return {name: replaced[tensor] for name, tensor in names.items() if tensor in replaced}


def _check_settings(config: Mapping[str, Any]) -> None:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if alpha is None:
        raise adapter_error("alpha_missing")
    if not is_positive(alpha) or alpha > MAX_ALPHA:
        raise adapter_error("alpha_unsound", alpha=repr(alpha))
    if rank is not None and not (type(rank) is int and 0 < rank <= MAX_RANK):
        raise adapter_error("rank_unsound", rank=repr(rank))


def _check_pairs(config: Mapping[str, Any], weights: AdapterTensors) -> None:
    """Checks that all weights are there, and their sizes.

    Raises:
        AdapterError: one is missing, or has the wrong size.
    """
    for key, sides in weights.pairs.items():
        _check_pair(key, sides)
        _check_rank(config, key, sides)
    missing = modules_to_save(config) - set(weights.whole)
    if missing:
        raise adapter_error("adapter_own_missing", names=" and ".join(sorted(missing)))


def _check_numbers(weights: AdapterTensors) -> None:
    """Checks that the weights are finite and have an effect; reads them one after the other.

    Raises:
        AdapterError: they are not finite, or have no effect.
    """
    if not _check_finite(_named(weights)) and not weights.whole:
        raise adapter_error("adapter_zero")


def _check_finite(tensors: Iterable[tuple[str, LazyTensor]]) -> bool:
    """Whether any tensor that a training begins with zeros, by its name, has another value.

    Raises:
        AdapterError: a tensor contains NaN or infinity.
    """
    has_effect = False
    for name, tensor in tensors:
        values = tensor.read()
        if not values.isfinite().all():
            raise adapter_error("adapter_not_finite", name=name)
        begins_as_zero = any(part in name for part in BEGIN_AS_ZERO)
        has_effect = has_effect or (begins_as_zero and bool(values.any()))
    return has_effect


def _check_pair(key: Key, sides: Mapping[str, LazyTensor]) -> None:
    layer, module = key
    if set(sides) != {"A", "B"}:
        raise adapter_error("adapter_half_pair", layer=layer, module=module)
    if any(len(side.shape) != 2 for side in sides.values()):
        raise adapter_error("adapter_no_matrices", layer=layer, module=module)


def _check_rank(config: Mapping[str, Any], key: Key, sides: Mapping[str, LazyTensor]) -> None:
    configured = module_setting(config, "rank_pattern", key, config.get("r"))
    actual = sides["A"].shape[0]
    if configured is not None and configured != actual:
        raise adapter_error(
            "rank_differs", layer=key[0], module=key[1], found=actual, configured=configured
        )


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
    """Checks that the adapter was trained on this base: by the fingerprint of its weights if
    the card has one, else by its name."""
    trained_on = card.get("base_model") or config.get("base_model_name_or_path")
    name = str(trained_on).rstrip("/").replace("\\", "/").rpartition("/")[2]
    recorded = card.get("fingerprint")
    if (
        isinstance(recorded, list)
        and recorded
        and all(map(is_number, recorded))
        and base.fingerprint
    ):
        difference = distance(recorded, base.fingerprint)
        if not difference <= RELATED:
            raise adapter_error("adapter_other_base", base=base.name, trained_on=name)
        if difference > SAME:
            yield finding(
                "adapter_base_changed", base=base.name, trained_on=name, percent=100 * difference
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
    targets = config.get("target_modules")
    named = (
        {str(name).rpartition(".")[2] for name in targets} if isinstance(targets, list) else set()
    )
    missing = sorted(named - set(modules) - set(weights.whole))
    if missing:
        yield finding("target_without_weights", names=", ".join(missing))
    largest = max(
        (scaling(config, key, sides["A"].shape[0]) for key, sides in weights.pairs.items()),
        default=0.0,
    )
    if largest > MAX_SCALING:
        yield finding("scaling_large", scaling=largest)


def default_template(replaced_vocabulary: bool, templates: Collection[str]) -> str | None:
    """The template of an adapter whose card names none; None for the base's template.

    A vocabulary that replaces the base's lacks the control tokens of the base's template. All
    published adapters with one are Chinese-Alpaca's.
    """
    return CHINESE_ALPACA if replaced_vocabulary and CHINESE_ALPACA in templates else None


def _check_template(
    card: Mapping[str, Any],
    templates: Collection[str],
    replaced_vocabulary: bool,
    own: PromptTemplate | None,
) -> Iterator[Finding]:
    template = card.get("template")
    if template is None and own is None:
        default = default_template(replaced_vocabulary, templates)
        if default:
            yield finding("template_guessed", file=CARD, used=default)
        else:
            yield finding("template_untold", file=CARD)
    elif template is not None and not (isinstance(template, str) and template in templates):
        raise adapter_error("template_unknown", template=repr(template))
