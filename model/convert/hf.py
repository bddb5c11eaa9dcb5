"""A folder in the Hugging Face layout whose weights are PyTorch pickles, to safetensors."""

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

# What belongs to a model besides its weights. checklist.chk tells sums of files that stay behind.
REST = ("*.json", "*.model", "*.jinja", "*.txt", "*.md", "LICENSE*", "tokenizer_checklist.chk")
LEFT = ("config.json", "*.index.json")


def open_hf(source: Path, tokenizer: Path | None, told: Mapping[str, Any]) -> Conversion:
    """The model in the folder `source`; `told`, if it is not empty, is its config.json instead.

    Raises:
        ModelFolderError: it is not whole, or has safetensors already.
    """
    folder = read_model_folder(source, told or None)
    if any(file.suffix == ".safetensors" for file in folder.weight_files):
        raise folder_error("converted_already", folder=source)
    tied = bool(folder.config.get("tie_word_embeddings"))
    tensors = [
        tensor
        for file in folder.weight_files
        for tensor in list_tensors(file)
        if not _is_left_out(tensor, tied)
    ]
    rest = partial(_write_rest, source, tokenizer)
    extra = () if tokenizer is None else (tokenizer,)
    return Conversion(folder.config, tensors, rest, (*folder.weight_files, *extra))


def _is_left_out(tensor: LazyTensor, tied: bool) -> bool:
    """The second of two names for one embedding, and what old checkpoints carry on."""
    return tensor.name.endswith(IGNORED) or (tied and tensor.name == HEAD)


def _write_rest(source: Path, tokenizer: Path | None, folder: Path) -> None:
    copy_rest(source, folder)
    if tokenizer is not None:
        replace_tokenizer(tokenizer, folder)


def copy_rest(source: Path, folder: Path) -> None:
    """Copy what belongs to a model besides its configuration and weights."""
    left = {path for pattern in LEFT for path in source.glob(pattern)}
    for path in {path for pattern in REST for path in source.glob(pattern)} - left:
        if path.is_file():
            shutil.copyfile(path, folder / path.name)


def replace_tokenizer(tokenizer: Path, folder: Path) -> None:
    """Put another tokenizer in the place of the one in `folder`."""
    for name in ("tokenizer.json", "tokenizer.model", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.copyfile(tokenizer, folder / f"tokenizer{tokenizer.suffix}")
