"""How an adapter's chats are written, where it has its own chat template, tokenizer or eos."""

from __future__ import annotations

import shutil
from pathlib import Path

from jinja2 import TemplateError

from model.diagnostics import adapter_error
from model.doctor.vocabulary import adapter_tokenizer, tokenizers_differ
from model.folders.adapter_config import read_json_object, read_text_file
from model.folders.base_info import BaseInfo
from model.text.prompt_template import PromptTemplate, compile_template
from model.text.tokenizer import Tokenizer
from model.text.tokenizer_files import CHAT_TEMPLATE, TOKENIZER_FILES, chat_template_in

OWN_TEMPLATE = "own"  # the name under which an adapter's own chat template is shown
TOKENIZER_CONFIG = "tokenizer_config.json"
# Files of a tokenizer beside TOKENIZER_FILES; another tokenizer's must not stay.
OTHER_TOKENIZER_FILES = ("tokenizer_checklist.chk", "vocab.json", "merges.txt")


def own_template(path: Path) -> PromptTemplate | None:
    """The chat template in an adapter's folder, where the tools that trained it have saved it.

    Raises:
        AdapterError: it cannot be read or compiled.
    """
    if (path / CHAT_TEMPLATE).is_file():
        source: str | None = read_text_file(path / CHAT_TEMPLATE)
    elif (path / TOKENIZER_CONFIG).is_file():
        source = chat_template_in(read_json_object(path / TOKENIZER_CONFIG))
    else:
        return None
    if source is None:
        return None
    try:
        compile_template(source)
    except (TemplateError, ValueError, RecursionError) as error:
        raise adapter_error("adapter_template_broken", reason=error) from error
    return PromptTemplate(OWN_TEMPLATE, source, "The adapter's own")


def own_tokenizer(path: Path, base: BaseInfo | None) -> Tokenizer | None:
    """The tokenizer in an adapter's folder if chats need it: its ids fit the base's rows, and it
    encodes text or ends replies in another way than the base's.

    Raises:
        AdapterError: it is torn.
    """
    tokenizer = adapter_tokenizer(path)
    if tokenizer is None or base is None or base.tokenizer is None:
        return None
    if tokenizer.vocab_size > base.rows:
        return None
    special = (tokenizer.bos, tokenizer.eos, tokenizer.eos_id, tokenizer.prefix_ids)
    others = base.tokenizer
    if special == (others.bos, others.eos, others.eos_id, others.prefix_ids):
        return tokenizer if tokenizers_differ(tokenizer, others) else None
    return tokenizer


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copies the files of the tokenizer in `source` into `folder`, in place of those there."""
    for name in (*TOKENIZER_FILES, *OTHER_TOKENIZER_FILES):
        (folder / name).unlink(missing_ok=True)
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
