"""Writes the files of a merged folder besides its weights: tokenizer, template and README."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from model.convert.hf import copy_extra_files
from model.folders.model_folder import ModelFolder
from model.text.prompt_template import PromptTemplate
from model.text.tokenizer_files import TOKENIZER_FILES, read_json

# Files of the base's tokenizer that an adapter's tokenizer replaces, beside TOKENIZER_FILES.
REPLACED_FILES = ("tokenizer_checklist.chk", "vocab.json", "merges.txt")


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
        for name in (*TOKENIZER_FILES, *REPLACED_FILES):
            (folder / name).unlink(missing_ok=True)
            if (chat_format.tokenizer / name).is_file():
                shutil.copyfile(chat_format.tokenizer / name, folder / name)
    if chat_format.template is not None:
        _write_template(folder, chat_format.template)
    (folder / "README.md").write_text(f"{chat_format.readme}\n", encoding="utf-8")


def _write_template(folder: Path, template: PromptTemplate) -> None:
    """Writes `template` as the model's own chat template, with its stop strings."""
    (folder / "chat_template.jinja").write_text(template.source, encoding="utf-8")
    if template.stop:
        file = folder / "generation_config.json"
        content = {**read_json(file, optional=True), "stop_strings": list(template.stop)}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
