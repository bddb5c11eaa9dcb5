"""Checks a base model's folder before it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model.bounded_files import read_file
from model.diagnostics import Finding, finding, finding_of
from model.doctor.hardware import check_hardware
from model.doctor.integrity import bytes_to_sum, check_numbers, check_sums
from model.errors import FolderError, ModelFolderError
from model.folders.model_folder import (
    WEIGHTS,
    chat_template,
    check_config,
    read_config,
    weight_files,
    weight_map,
)
from model.folders.tensor_schema import diff_tensors, expected_tensors
from model.folders.weights import LazyTensor, list_tensors
from model.progress_bar import Bar
from model.text.tokenizer_files import TOKENIZER_MODEL, check_vocab_size, read_tokenizer

FileTensors = list[tuple[Path, LazyTensor]]

# Meta's own tokenizer.model of LLaMA: rows of its models, size, md5.
METAS_ROWS = 32000
METAS_BYTES = 499_723
METAS_MD5 = "eeec4125e9c7560836b4873b6f8e3025"


def check_base(folder: Path, *, deep: bool, bar: Bar, template: str = "linly") -> Iterator[Finding]:
    """Yields findings about the base model in `folder`.

    Args:
        deep: reads every weight and compares every checksum, which takes as long as reading the
            files.
        bar: makes a progress bar from a text and a number of bytes.
        template: the prompt template that is used if the model has none.
    """
    yield from quick_check(folder)
    config = _or_none(lambda: check_config(folder, read_config(folder)))
    if config is None:
        return
    yield from collect_findings(lambda: _check_settings(folder, config))
    if _or_none(lambda: chat_template(folder)) is None:
        yield finding("no_chat_template", template=template)
    tensors = _or_none(lambda: _file_tensors(folder)) or []
    if tensors and _or_none(lambda: expected_tensors(config)):
        yield from check_hardware(config, [tensor for _, tensor in tensors])
    with bar("Comparing sums", bytes_to_sum(folder, deep)) as progress:
        yield from check_sums(folder, deep, progress)
    if deep and tensors:
        with bar("Reading weights", sum(tensor.nbytes for _, tensor in tensors)) as progress:
            yield from check_numbers(tensors, progress)


def quick_check(folder: Path, pickles: bool = True) -> Iterator[Finding]:
    """Yields the findings about the model in `folder` that take no time: about its configuration,
    the headers of its weights, and its tokenizer.

    Without `pickles`, weights in that format are not opened, and torch is not imported.
    """
    try:
        config = check_config(folder, read_config(folder))
    except FolderError as error:
        yield finding_of(error)
        return
    yield from collect_findings(lambda: _check_weights(folder, config, pickles))
    yield from collect_findings(lambda: _check_tokenizer(folder, config))


def refuse_errors(found: Iterable[Finding]) -> list[Finding]:
    """The warnings among the findings about a base.

    Raises:
        ModelFolderError: one of the findings is an error.
    """
    findings = list(found)
    for error in findings:
        if error.level == "error":
            raise ModelFolderError(error)
    return [warning for warning in findings if warning.level == "warning"]


def collect_findings(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yields the findings of `check`, and a finding for the error with which it ends, if any."""
    try:
        yield from check()
    except FolderError as error:
        yield finding_of(error)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        yield finding("check_failed", said=f"{type(error).__name__}: {reason}")


def _or_none(read: Callable[[], Any]) -> Any:
    """The result of `read`, or None if it fails; another check reports the error."""
    try:
        return read()
    except FolderError:
        return None


def _file_tensors(folder: Path) -> FileTensors:
    return [(file, tensor) for file in weight_files(folder) for tensor in list_tensors(file)]


def _check_weights(folder: Path, config: Mapping[str, Any], pickles: bool) -> Iterator[Finding]:
    files = weight_files(folder)
    pickled = [file for file in files if file.suffix != ".safetensors"]
    if pickled:
        yield finding("pickle_weights", name=pickled[0].name, folder=folder)
        if not pickles:
            return
    tensors = _file_tensors(folder)
    yield from diff_tensors(config, [tensor for _, tensor in tensors], folder)
    yield from _check_index(folder, tensors)


def _check_index(folder: Path, tensors: FileTensors) -> Iterator[Finding]:
    """Checks that every tensor is in the file that the index names."""
    index = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if index is None or not index.name.endswith(".index.json"):
        return
    files = {tensor.name: file.name for file, tensor in tensors}
    for name, file in weight_map(index).items():
        if files.get(name) != file:
            yield finding("index_differs", name=index.name, tensor=name, file=file)
            return


def _check_tokenizer(folder: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    if config["vocab_size"] != METAS_ROWS and _is_metas(folder / TOKENIZER_MODEL):
        yield finding("tokenizer_is_metas", rows=config["vocab_size"])
        return
    tokenizer, special = read_tokenizer(folder)
    check_vocab_size(tokenizer, config)
    yield from special.repairs


def _is_metas(file: Path) -> bool:
    try:
        content = read_file(file, METAS_BYTES)
    except (OSError, ValueError):  # it does not exist, or is larger
        return False
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == METAS_MD5


def _check_settings(folder: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Checks the settings that transformers and this engine's forward use."""
    from model.weight_loader import check_llama_config

    check_llama_config(folder, config)
    yield from ()
