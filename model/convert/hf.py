"""Reads a folder in the Hugging Face layout whose weights are PyTorch pickles."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from model.convert.conversion import Conversion
from model.diagnostics import folder_error
from model.folders.lazy_tensor import LazyTensor
from model.folders.model_folder import IGNORED, read_model_folder
from model.folders.weights import list_tensors
from model.tensor_names import HEAD

# Files of a model besides its weights. Not checklist.chk, which has the weight files' sums.
EXTRA_FILES = (
    "*.json",
    "*.model",
    "*.jinja",
    "*.txt",
    "*.md",
    "LICENSE*",
    "tokenizer_checklist.chk",
)
NOT_COPIED = ("config.json", "*.index.json")


def open_hf(source: Path, tokenizer: Path | None, config_file: Mapping[str, Any]) -> Conversion:
    """Opens the model in the folder `source`; a full `config_file` replaces its config.json.

    Raises:
        ModelFolderError: it is incomplete, or has safetensors already.
    """
    folder = read_model_folder(source, config_file or None)
    if any(file.suffix == ".safetensors" for file in folder.weight_files):
        raise folder_error("converted_already", folder=source)
    tied = folder.tied_head
    tensors = [
        tensor
        for file in folder.weight_files
        for tensor in list_tensors(file)
        if not _is_redundant(tensor, tied)
    ]
    write_extra_files = partial(_write_extra_files, source, tokenizer)
    sources = (*folder.weight_files, *(() if tokenizer is None else (tokenizer,)))
    config = {**folder.config, **({} if tied else {"tie_word_embeddings": False})}
    return Conversion(config, tensors, write_extra_files, sources)


def _is_redundant(tensor: LazyTensor, tied: bool) -> bool:
    """Whether it is a tied head, which is the embedding again, or a buffer of old checkpoints."""
    return tensor.name.endswith(IGNORED) or (tied and tensor.name == HEAD)


def _write_extra_files(source: Path, tokenizer: Path | None, folder: Path) -> None:
    copy_extra_files(source, folder)
    if tokenizer is not None:
        replace_tokenizer(tokenizer, folder)


def copy_extra_files(source: Path, folder: Path) -> None:
    """Copies a model's files besides its configuration and weights."""
    excluded = {path for pattern in NOT_COPIED for path in source.glob(pattern)}
    for path in {path for pattern in EXTRA_FILES for path in source.glob(pattern)} - excluded:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def replace_tokenizer(tokenizer: Path, folder: Path) -> None:
    """Replaces the tokenizer in `folder` by another one."""
    for name in ("tokenizer.json", "tokenizer.model", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.copyfile(tokenizer, folder / f"tokenizer{tokenizer.suffix}")
