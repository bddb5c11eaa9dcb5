"""What a merged folder holds besides weights: the tokenizer that fits, the template, a README."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from model.convert.hf import copy_rest
from model.folders.model_folder import ModelFolder
from model.text.prompt import PromptTemplate
from model.text.tokenizer_files import TOKENIZER, read_json

# Goes with the tokenizer that the base had, where another comes.
OLD = ("tokenizer_checklist.chk", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class ChatFormat:
    """How a merged model is to be spoken to.

    `tokenizer` is an adapter's folder if it brings its own; `template` the one that an adapter was
    trained with, None for the base's own. `story` tells what was merged, as the README does.
    """

    tokenizer: Path | None
    template: PromptTemplate | None
    story: str


def write_rest(folder: Path, base: ModelFolder, voice: ChatFormat) -> None:
    """Write everything but config.json and the weights into `folder`."""
    copy_rest(base.path, folder)
    if voice.tokenizer is not None:
        for name in (*TOKENIZER, *OLD):
            (folder / name).unlink(missing_ok=True)
            if (voice.tokenizer / name).is_file():
                shutil.copyfile(voice.tokenizer / name, folder / name)
    if voice.template is not None:
        _write_template(folder, voice.template)
    (folder / "README.md").write_text(f"{voice.story}\n", encoding="utf-8")


def _write_template(folder: Path, template: PromptTemplate) -> None:
    """As the model's own chat template; where a reply stops goes with it."""
    (folder / "chat_template.jinja").write_text(template.source, encoding="utf-8")
    if template.stop:
        file = folder / "generation_config.json"
        content = {**read_json(file, optional=True), "stop_strings": list(template.stop)}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
