"""A base model's folder, looked over before it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model.bounded_files import read_file
from model.diagnostics import Finding, finding, finding_of, to_error
from model.doctor.hardware import check_machine
from model.doctor.integrity import bytes_to_sum, check_numbers, check_sums
from model.errors import FolderError
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
from model.text.tokenizer_files import SPM, check_pieces, read_tokenizer

Held = list[tuple[Path, LazyTensor]]

METAS_ROWS = 32000
METAS_BYTES = 499_723
METAS_SUM = "eeec4125e9c7560836b4873b6f8e3025"  # md5 of LLaMA's own tokenizer.model


def check_base(folder: Path, *, deep: bool, bar: Bar, template: str = "linly") -> Iterator[Finding]:
    """What is wrong with, or worth knowing about, the base model in `folder`.

    Args:
        deep: read every number and every sum, which takes as long as reading the files.
        bar: makes a progress bar of a text and a number of bytes.
        template: the prompt template that stands in where the model has none.
    """
    yield from quick_check(folder)
    config = _or_none(lambda: check_config(folder, read_config(folder)))
    if config is None:
        return
    yield from collect_findings(lambda: _check_settings(folder, config))
    if _or_none(lambda: chat_template(folder)) is None:
        yield finding("no_chat_template", template=template)
    held = _or_none(lambda: _held(folder)) or []
    if held and _or_none(lambda: expected_tensors(config)):
        yield from check_machine(config, [tensor for _, tensor in held])
    with bar("Comparing sums", bytes_to_sum(folder, deep)) as progress:
        yield from check_sums(folder, deep, progress)
    if deep and held:
        with bar("Reading weights", sum(tensor.nbytes for _, tensor in held)) as progress:
            yield from check_numbers(held, progress)


def quick_check(folder: Path, pickles: bool = True) -> Iterator[Finding]:
    """What can be said in a moment about the model in `folder`: its configuration, the headers of
    its weights against it, and its tokenizer.

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
    """The warnings among what was found about a base.

    Raises:
        ModelFolderError: there is an error among them.
    """
    findings = list(found)
    for one in findings:
        if one.level == "error":
            raise to_error(one)
    return [one for one in findings if one.level == "warning"]


def collect_findings(check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """What a check finds, and what it is refused for; whatever else it runs into is told, too."""
    try:
        yield from check()
    except FolderError as error:
        yield finding_of(error)
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        yield finding("check_failed", said=f"{type(error).__name__}: {said}")


def _or_none(read: Callable[[], Any]) -> Any:
    """None for what cannot be read: somebody else tells why."""
    try:
        return read()
    except FolderError:
        return None


def _held(folder: Path) -> Held:
    return [(file, tensor) for file in weight_files(folder) for tensor in list_tensors(file)]


def _check_weights(folder: Path, config: Mapping[str, Any], pickles: bool) -> Iterator[Finding]:
    files = weight_files(folder)
    pickled = [file for file in files if file.suffix != ".safetensors"]
    if pickled:
        yield finding("pickle_weights", name=pickled[0].name, folder=folder)
        if not pickles:
            return
    held = _held(folder)
    yield from diff_tensors(config, [tensor for _, tensor in held], folder)
    yield from _check_index(folder, held)


def _check_index(folder: Path, held: Held) -> Iterator[Finding]:
    """Whether every tensor is in the file that the index tells."""
    index = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if index is None or not index.name.endswith(".index.json"):
        return
    places = {tensor.name: file.name for file, tensor in held}
    for name, file in weight_map(index).items():
        if places.get(name) != file:
            yield finding("index_differs", name=index.name, tensor=name, file=file)
            return


def _check_tokenizer(folder: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    if config["vocab_size"] != METAS_ROWS and _is_metas(folder / SPM):
        yield finding("tokenizer_is_metas", rows=config["vocab_size"])
        return
    tokenizer, special = read_tokenizer(folder)
    check_pieces(tokenizer, config)
    yield from special.repairs


def _is_metas(file: Path) -> bool:
    try:
        content = read_file(file, METAS_BYTES)
    except (OSError, ValueError):  # it is not there, or larger
        return False
    return hashlib.md5(content, usedforsecurity=False).hexdigest() == METAS_SUM


def _check_settings(folder: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """What transformers, and the forward here, say to the configuration."""
    from model.weight_loader import check_llama_config

    check_llama_config(folder, config)
    yield from ()
