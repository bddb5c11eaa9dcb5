"""Kinds of LoRA adapters by their adapter_config.json: served, only merged, or refused.

Each setting of peft's LoraConfig is in one of the tables here, which a test compares with peft.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.diagnostics import Finding, adapter_error, finding
from model.errors import AdapterError
from model.translations import LocalizedText

# Settings that are heeded, or that do not change what a saved adapter computes in a LLaMA:
# peft ignores `fan_in_fan_out` and Megatron's settings for its linear layers, and the `*_config`
# of an initialisation is used only before the training. `bias` trains those of the base that exist.
KNOWN = {
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "runtime_config", "r", "lora_alpha", "lora_dropout", "use_rslora",
    "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "modules_to_save", "ensure_weight_tying", "bias", "fan_in_fan_out",
    "megatron_config", "megatron_core", "qalora_group_size", "init_lora_weights", "loftq_config",
    "eva_config", "corda_config", "lora_ga_config",
    "enable_lora", "merge_weights",  # of 2023, no longer in peft
}  # fmt: skip
# Settings of adapters that are not served, but can be merged: the key, and its name in messages.
MERGED_ONLY = {
    "use_dora": "DoRA",
    "trainable_token_indices": "trainable tokens",
    "velora_config": "VeLoRA",
    "target_parameters": "updates of bare parameters",
}
# Settings of adapters that can be neither served nor merged into a LLaMA.
REFUSED = {
    "lora_bias": "a bias in the update",
    "alora_invocation_tokens": "activation by tokens (aLoRA)",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow routing",
    "layer_replication": "replicated layers",
}
# Kinds of `init_lora_weights` that take the initial weights out of the base, and those that do not.
CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
KEEPS_BASE = ("true", "false", "none", "gaussian", "eva", "orthogonal", "mica")
# Layers that an adapter may replace as a whole, and their names in the base.
WHOLE = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}
LANGUAGE_MODELS = (None, "CAUSAL_LM")  # values of `task_type`; others have other heads


def refuse_unserved(path: Path, config: Mapping[str, Any]) -> None:
    """Refuses the kinds of adapters that are not served.

    Raises:
        AdapterError: it is one; the remedy is to merge it if that is possible.
    """
    refuse_unmergeable(config)
    for key, feature in MERGED_ONLY.items():
        if config.get(key):
            raise merged_only(path, feature)
    other = modules_to_save(config) - set(WHOLE)
    if other:
        raise adapter_error("adapter_other_layer", layer=min(other), name=path.name)


def refuse_unmergeable(config: Mapping[str, Any]) -> None:
    """Refuses the kinds of adapters that can be neither served nor merged.

    Raises:
        AdapterError: it is one, or its training changed the weights of the base.
    """
    for key, feature in REFUSED.items():
        if config.get(key):
            raise adapter_error("adapter_kind_refused", what=feature, key=key)
    task = config.get("task_type")
    if task not in LANGUAGE_MODELS:
        raise adapter_error("adapter_task", task=str(task)[:100])
    init = str(config.get("init_lora_weights")).lower()
    if init.startswith(CHANGES_BASE):
        # peft refuses to convert an adapter whose scalings differ by sqrt(rank).
        patterned = config.get("rank_pattern") or config.get("alpha_pattern")
        inseparable = init == "loftq" or (config.get("use_rslora") and patterned)
        code = "adapter_inseparable" if inseparable else "adapter_changes_base"
        raise adapter_error(code, init=init[:100])
    if init not in KEEPS_BASE:
        raise adapter_error("adapter_init_unknown", init=init[:100])


def merged_only(path: Path, feature: str | LocalizedText) -> AdapterError:
    """The error for an adapter with a `feature` that has to be merged."""
    return adapter_error("adapter_kind", what=feature, name=path.name)


def unknown_settings(config: Mapping[str, Any]) -> Iterable[Finding]:
    """Yields a warning if a setting that this program does not know is switched on."""
    known = KNOWN | set(MERGED_ONLY) | set(REFUSED)
    names = sorted(key for key, value in config.items() if value and key not in known)
    if names:
        yield finding("adapter_settings_unknown", names=", ".join(names)[:500])


def modules_to_save(config: Mapping[str, Any]) -> set[str]:
    """Returns the names of the layers that the adapter replaces as a whole."""
    return {name.rpartition(".")[2] for name in config.get("modules_to_save") or ()}
