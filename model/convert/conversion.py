"""What every other format becomes before it is written: a config, tensors, and small files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.diagnostics import folder_error
from model.folders.lazy_tensor import LazyTensor
from model.translations import LocalizedText

# What --config may tell that weights do not, by the names that TencentPretrain has for it.
TOLD = {
    "num_attention_heads": "heads_num",
    "num_key_value_heads": "kv_heads_num",
    "max_position_embeddings": "max_seq_length",
    "rms_norm_eps": "layernorm_eps",
    "rope_theta": "rope_theta",
    "rope_scaling": "rope_scaling",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}


@dataclass(frozen=True)
class Conversion:
    """A model in another format, made ready: the weights are read when they are written.

    `write_rest` writes the tokenizer, and whatever else belongs to the model, into a folder.
    With `exact`, every row must have a piece: nobody has said that some are padding.
    """

    config: Mapping[str, Any]
    tensors: Sequence[LazyTensor]
    write_rest: Callable[[Path], None]
    sources: tuple[Path, ...]
    exact: bool = False


def read_config(path: Path | None) -> dict[str, Any]:
    """The JSON file that --config names; empty without one.

    Raises:
        ModelFolderError: it cannot be read.
    """
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise folder_error("config_unreadable", file=path, said=error) from error
    if not isinstance(config, dict):
        raise folder_error("config_unreadable", file=path, said=LocalizedText("not_a_json_object"))
    return config


def config_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says that weights do not, in the Hugging Face layout's names.

    Sizes are left out: they are read off the weights.
    """
    names = {ours: ours if ours in config else theirs for ours, theirs in TOLD.items()}
    return {ours: config[name] for ours, name in names.items() if name in config}
