"""Checks the config.json of a model folder: LLaMA family, required fields, sane sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.diagnostics import folder_error
from model.folders.incomplete_folders import NOT_MODELS, missing_config_error
from model.translations import LocalizedText

ARCHITECTURES = {"LlamaForCausalLM", "LLaMAForCausalLM"}  # the second is in early files
# No model has larger sizes. With larger ones the table of expected tensors would fill the memory
# before the weights are checked.
MAX_SIZES = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "max_position_embeddings": 100_000_000,
}


def check_format(path: Path) -> None:
    """Refuses a folder with a model in another format.

    Raises:
        ModelFolderError: the format is another one.
    """
    if (path / "config.json").is_file():
        return
    source = _other_format(path)
    if source is not None:
        raise folder_error("needs_conversion", folder=path, source=source)
    if any(path.glob("consolidated.*.pth")):
        raise folder_error("metas_format", folder=path)
    error = missing_config_error(path)
    if error is not None:
        raise error


def _other_format(path: Path) -> Path | None:
    """Returns the path to convert, if there is one.

    It is a GGUF file, or a folder with a checkpoint and a SentencePiece model, as Linly publishes
    them.
    """
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs:
        return ggufs[0] if len(ggufs) == 1 else path
    checkpoints = [
        file
        for file in path.glob("*.bin")
        if file.name not in NOT_MODELS and not file.match("pytorch_model*.bin")
    ]
    return path if checkpoints and any(path.glob("*.model")) else None


def check_config(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Checks `config`, the config.json of the folder `path`, and returns it.

    Raises:
        ModelFolderError: it is of another family, lacks a required field, or has an absurd size.
    """
    names = config.get("architectures")
    architectures = [str(name) for name in names] if isinstance(names, list) else []
    if not ARCHITECTURES.intersection(architectures) and config.get("model_type") != "llama":
        family = (
            ", ".join(architectures) or config.get("model_type") or LocalizedText("unknown_family")
        )
        raise folder_error("not_llama", folder=path, what=family)
    if not all(_is_size(config.get(size)) for size in ("vocab_size", "hidden_size")):
        raise folder_error("config_incomplete", file=path / "config.json")
    for name, max_size in MAX_SIZES.items():
        value = config.get(name)
        if value is not None and not (_is_size(value) and value <= max_size):
            problem = f"{name} is {value!r}"
            raise folder_error("config_unsound", file=path / "config.json", reason=problem)
    return config


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
