"""Reads an adapter to merge: its tensors by the layer of the base that they change."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.diagnostics import adapter_error
from model.folders.adapter_config import read_config, setting_by_name, token_indices
from model.folders.adapter_files import (
    LAYER_TENSOR,
    TOKENS_TENSOR,
    digest,
    list_adapter_tensors,
    replaced_tensor,
)
from model.folders.adapter_kinds import WHOLE

if TYPE_CHECKING:
    from torch import Tensor

# Settings of peft that are not for the merge of single layers: which layers there are, and how
# lora_A and lora_B began.
UNUSED_SETTINGS = {
    **dict.fromkeys((
        "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
        "trainable_token_indices", "target_parameters", "megatron_config",
    )),
    "bias": "none", "ensure_weight_tying": False, "init_lora_weights": True,
}  # fmt: skip


@dataclass(frozen=True)
class TokenRows:
    """Rows of an embedding or a head that an adapter replaces: their indices, and their values
    [len(indices), hidden_size]."""

    indices: Tensor
    values: Tensor


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter to merge, by the names of the base's tensors without ".weight": the tensors of
    its LoRA for each layer, tensors that replace the base's in `full_tensors`, and single rows that
    do in `token_rows`."""

    name: str
    digest: str
    config: Any  # peft's
    adapter_scale: float
    layers: Mapping[str, Mapping[str, Tensor]]
    full_tensors: Mapping[str, Tensor] = field(default_factory=dict)
    token_rows: Mapping[str, TokenRows] = field(default_factory=dict)

    @property
    def changed_layers(self) -> set[str]:
        """The names of the layers that the adapter changes."""
        return {*self.layers, *self.full_tensors, *self.token_rows}

    @property
    def vocabulary(self) -> list[Tensor]:
        """The embedding and the head that replace the base's."""
        return [self.full_tensors[name] for name in WHOLE.values() if name in self.full_tensors]


def read_adapter(path: Path, adapter_scale: float, tied: bool) -> AdapterWeights:
    """Reads the adapter in `path`, which was checked before, with its configuration as peft has it.

    Args:
        tied: whether the base's head is its embedding; then rows of the embedding are of the head,
            too, as in peft.

    Raises:
        AdapterError: its files have changed since the check, or peft refuses its configuration.
    """
    # At its import it logs which of its kernels are missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import torch
    from peft import LoraConfig

    layers: dict[str, dict[str, Tensor]] = {}
    full_tensors: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}
    for lazy in list_adapter_tensors(path):
        name, tensor = lazy.name, lazy.read()
        if match := LAYER_TENSOR.match(name):
            layers.setdefault(match[1], {})[match[2].replace(".default", "")] = tensor
        elif match := TOKENS_TENSOR.match(name):
            deltas[match[1]] = tensor
        elif replaced := replaced_tensor(name):
            full_tensors[replaced.removesuffix(".weight")] = tensor
        else:
            raise adapter_error("adapter_weight_unknown", name=name)
    config = read_config(path)
    token_rows = {
        WHOLE[name]: TokenRows(torch.tensor(token_indices(config, name, rows.shape)), rows)
        for name, rows in deltas.items()
    }
    if tied and WHOLE["embed_tokens"] in token_rows:
        token_rows.setdefault(WHOLE["lm_head"], token_rows[WHOLE["embed_tokens"]])
    try:
        peft_config = LoraConfig.from_peft_type(**_supported(_with_exact_names(config, layers)))
    except (TypeError, ValueError) as error:  # peft's own checks
        reason = f"adapter_config.json: {str(error).splitlines()[0]}"
        raise adapter_error("adapter_unreadable", reason=reason) from error
    return AdapterWeights(
        path.name, digest(path), peft_config, adapter_scale, layers, full_tensors, token_rows
    )


def _with_exact_names(config: Mapping[str, Any], layers: Iterable[str]) -> dict[str, Any]:
    """`config` with the names of `layers`, those that have weights, in place of its patterns: peft
    matches patterns by backtracking, which for some of them never ends."""
    names = list(layers)
    return {
        **config,
        **UNUSED_SETTINGS,
        "target_modules": names,
        **{key: _exact(config, key, names) for key in ("rank_pattern", "alpha_pattern")},
    }


def _exact(config: Mapping[str, Any], patterns: str, names: Sequence[str]) -> dict[str, Any]:
    values = {name: setting_by_name(config, patterns, name, None) for name in names}
    return {re.escape(name): value for name, value in values.items() if value is not None}


def _supported(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` without the keys that this version of peft lacks, as `merge_weights` of 2023."""
    from dataclasses import fields

    from peft import LoraConfig

    names = {field.name for field in fields(LoraConfig)}
    return {key: value for key, value in config.items() if key in names}
