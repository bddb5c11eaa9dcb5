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
    adapter was trained. Each is None for the base's own.
    """

    tokenizer: Path | None
    template: PromptTemplate | None
    readme: str


def write_extra_files(folder: Path, base: ModelFolder, chat_format: ChatFormat) -> None:
    """Writes everything but config.json and the weights into `folder`."""
    copy_extra_files(base.path, folder)
    if chat_format.tokenizer is not None:
        copy_tokenizer(chat_format.tokenizer, folder)
        _name_end_token(folder, base)
    if chat_format.template is not None:
        _write_template(folder, chat_format.template)
    (folder / "README.md").write_text(f"{chat_format.readme}\n", encoding="utf-8")


def _write_template(folder: Path, template: PromptTemplate) -> None:
    """Writes `template` as the model's own chat template, with its stop strings."""
    (folder / "chat_template.jinja").write_text(template.source, encoding="utf-8")
    if template.stop:
        _edit_generation_config(folder, stop_strings=list(template.stop))


def _name_end_token(folder: Path, base: ModelFolder) -> None:
    """Adds the end token of the tokenizer in `folder` to the base's; larger vocabularies have
    their own alone.

    Other programs know an adapter's end token from here only.
    """
    tokenizer, _ = read_tokenizer(folder)
    if tokenizer.eos_id is None:
        return
    same_rows = tokenizer.vocab_size <= base.config["vocab_size"]
    others = base.eos_ids - {tokenizer.eos_id} if same_rows else ()
    _edit_generation_config(folder, eos_token_id=[tokenizer.eos_id, *sorted(others)])


def _edit_generation_config(folder: Path, **changes: Any) -> None:
    file = folder / "generation_config.json"
    content = {**read_json(file, optional=True), **changes}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
