"""Writes the files of a merged folder besides its weights: tokenizer, template and README."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.convert.hf import copy_extra_files
from model.doctor.chat_format import copy_tokenizer
from model.folders.model_folder import ModelFolder
from model.text.prompt_template import PromptTemplate
from model.text.tokenizer_files import read_json, read_tokenizer


@dataclass(frozen=True)
class ChatFormat:
    """The tokenizer, prompt template and README of a merged model.

    `tokenizer` is the folder of an adapter with its own tokenizer; `template` the one with which an
    adapter was trained. Each is None for the base's own. With `replaces_vocabulary` the base's ids
    of end tokens mean something else in the tokenizer.
    """

    tokenizer: Path | None
    template: PromptTemplate | None
    readme: str
    replaces_vocabulary: bool = False


def write_extra_files(folder: Path, base: ModelFolder, chat_format: ChatFormat) -> None:
    """Writes everything but config.json and the weights into `folder`."""
    copy_extra_files(base.path, folder)
    if chat_format.tokenizer is not None:
        copy_tokenizer(chat_format.tokenizer, folder)
        others = frozenset() if chat_format.replaces_vocabulary else base.eos_ids
        _name_end_token(folder, others)
    if chat_format.template is not None:
        _write_template(folder, chat_format.template)
    (folder / "README.md").write_text(f"{chat_format.readme}\n", encoding="utf-8")


def _write_template(folder: Path, template: PromptTemplate) -> None:
    """Writes `template` as the model's own chat template, with its stop strings."""
    (folder / "chat_template.jinja").write_text(template.source, encoding="utf-8")
    if template.stop:
        _edit_generation_config(folder, stop_strings=list(template.stop))


def _name_end_token(folder: Path, base_ids: frozenset[int]) -> None:
    """Names the end token of the tokenizer in `folder` before those of the base.

    Other programs know an adapter's end token from here only.
    """
    eos_id = read_tokenizer(folder)[0].eos_id
    if eos_id is not None:
        others = sorted(base_ids - {eos_id})
        _edit_generation_config(folder, eos_token_id=[eos_id, *others])


def _edit_generation_config(folder: Path, **changes: Any) -> None:
    file = folder / "generation_config.json"
    content = {**read_json(file, optional=True), **changes}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
