"""Checks a base model's folder before it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model.bounded_files import read_file
from model.diagnostics import Finding, finding, finding_of, folder_error
from model.doctor.check_template import check_template, compare_template
from model.doctor.hardware import check_hardware
from model.doctor.integrity import bytes_to_sum, check_numbers, check_sums
from model.errors import FolderError, ModelFolderError, lack_of_memory
from model.folders.lazy_tensor import LazyTensor
from model.folders.model_folder import ModelFolder
from model.folders.quantized_weights import check_not_quantized
from model.folders.tensor_schema import diff_tensors, expected_tensors
from model.progress_bar import Bar
from model.text.tokenizer_files import TOKENIZER_MODEL, check_vocab_size

Tensors = list[tuple[Path, LazyTensor]]

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
    model = ModelFolder(folder)
    yield from quick_check(model)
    config = _or_none(lambda: model.config)
    if config is None:
        return
    yield from collect_findings(lambda: _check_settings(folder, config))
    yield from collect_findings(lambda: _check_chat_template(model, template))
    tensors = _or_none(lambda: list(model.tensors())) or []
    if tensors and _or_none(lambda: expected_tensors(config)):
        yield from check_hardware(config, [tensor for _, tensor in tensors])
    with bar("Comparing sums", bytes_to_sum(folder, deep)) as progress:
        yield from check_sums(folder, deep, progress)
    if deep and tensors:
        with bar("Reading weights", sum(tensor.nbytes for _, tensor in tensors)) as progress:
            yield from check_numbers(tensors, progress)


def quick_check(folder: ModelFolder, pickles: bool = True) -> Iterator[Finding]:
    """Findings that take no time: the configuration, the headers of the weights against it, and
    the tokenizer and the chat template.

    Without `pickles`, weights in that format are not opened, and torch is not imported.
    """
    try:
        _ = folder.config
    except FolderError as error:
        yield finding_of(error)
        return
    yield from collect_findings(lambda: _check_weights(folder, pickles))
    yield from collect_findings(lambda: _check_tokenizer(folder))


def compare_chat_template(folder: ModelFolder) -> Iterator[Finding]:
    """Yields a finding if the base's chat template renders in another way than in transformers.

    Takes about two seconds.
    """
    if folder.chat_template is not None:
        yield from compare_template(folder.chat_template, folder.tokenizer[0])


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
    """Yields the findings of `check`, and a finding for the error with which it ends, if any.

    Raises:
        OutOfMemoryError: memory ran out, which is no finding about the folder.
    """
    try:
        yield from check()
    except FolderError as error:
        yield finding_of(error)
    except Exception as error:
        if lack := lack_of_memory(error):
            raise lack from error
        reason = (str(error).splitlines() or [""])[0]
        yield finding("check_failed", reason=f"{type(error).__name__}: {reason}")


def _or_none(read: Callable[[], Any]) -> Any:
    """The result of `read`, or None if it fails; another check reports the error."""
    try:
        return read()
    except FolderError:
        return None


def _check_weights(folder: ModelFolder, pickles: bool) -> Iterator[Finding]:
    pickled = [file for file in folder.weight_files if file.suffix != ".safetensors"]
    if pickled:
        yield finding("pickle_weights", name=pickled[0].name, folder=folder.path)
        if not pickles:
            return
    tensors = list(folder.tensors())
    check_not_quantized(folder.path, folder.config, [tensor.name for _, tensor in tensors])
    empty = [tensor.name for _, tensor in tensors if 0 in tensor.shape]
    if empty:
        raise folder_error(
            "weights_not_gathered", folder=folder.path, count=len(empty), name=empty[0]
        )
    yield from diff_tensors(folder.config, [tensor for _, tensor in tensors], folder.path)
    yield from _check_index(folder, tensors)


def _check_index(folder: ModelFolder, tensors: Tensors) -> Iterator[Finding]:
    """Whether every tensor is in the file that the index names."""
    index = folder.weight_index
    if index is None:
        return
    files = {tensor.name: file.name for file, tensor in tensors}
    for name, file in folder.weight_map.items():
        if files.get(name) != file:
            yield finding("index_differs", name=index.name, tensor=name, file=file)
            return


def _check_tokenizer(folder: ModelFolder) -> Iterator[Finding]:
    rows = folder.config["vocab_size"]
    if rows != METAS_ROWS and _is_metas(folder.path / TOKENIZER_MODEL):
        yield finding("tokenizer_is_metas", rows=rows)
        return
    tokenizer, special = folder.tokenizer
    check_vocab_size(tokenizer, folder.config)
    yield from special.repairs
    if folder.chat_template is not None:
        yield from check_template(folder.chat_template, tokenizer)


def _check_chat_template(folder: ModelFolder, default: str) -> Iterator[Finding]:
    if folder.chat_template is None:
        yield finding("no_chat_template", template=default)
    elif _or_none(lambda: folder.tokenizer) and not list(
        check_template(folder.chat_template, folder.tokenizer[0])
    ):
        yield from compare_chat_template(folder)


def _is_metas(file: Path) -> bool:
    try:
        content = read_file(file, METAS_BYTES)
    except (OSError, ValueError):  # it does not exist, or is larger
        return False
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == METAS_MD5


def _check_settings(folder: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Checks the settings that transformers and this engine's forward use."""
    from model.weight_loader import check_llama_config, max_positions

    checked = check_llama_config(folder, config)
    limit = max_positions(checked)
    if limit is not None:
        yield finding("rope_limited", kind=checked.rope_parameters["rope_type"], length=limit)
