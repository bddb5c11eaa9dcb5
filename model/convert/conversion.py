"""The result of reading another format: a config, lazy tensors, and small files to write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.diagnostics import folder_error
from model.folders.lazy_tensor import LazyTensor
from model.translations import LocalizedText

# Settings that --config can add, because weights do not contain them, with TencentPretrain's names.
CONFIG_KEYS = {
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
    """A model in another format, ready to be written; its weights are read while they are written.

    `write_extra_files` writes the tokenizer, and other files of the model, into a folder. With
    `exact`, every row of the embedding must have a token, because none of them is known as padding.
    """

    config: Mapping[str, Any]
    tensors: Sequence[LazyTensor]
    write_extra_files: Callable[[Path], None]
    sources: tuple[Path, ...]
    exact: bool = False


def read_config_file(path: Path | None) -> dict[str, Any]:
    """Reads the JSON file of --config; empty if `path` is None.

    Raises:
        ModelFolderError: it cannot be read.
    """
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise folder_error("config_unreadable", file=path, reason=error) from error
    if not isinstance(config, dict):
        raise folder_error(
            "config_unreadable", file=path, reason=LocalizedText("not_a_json_object")
        )
    return config


def config_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a --config file that weights do not contain, by their Hugging Face names.

    Sizes are not among them: the weights' shapes have them.
    """
    keys = {name: name if name in config else other for name, other in CONFIG_KEYS.items()}
    return {name: config[key] for name, key in keys.items() if key in config}
