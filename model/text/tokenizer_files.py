"""Reads the tokenizer of a folder, and checks that it fits the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.bounded_files import check_not_lfs_pointer, parse_json, read_text
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.text.fast_tokenizer import FastTokenizer
from model.text.special_tokens import SpecialTokens, Vocabulary, choose_special
from model.text.spm_tokenizer import SpmTokenizer, open_spm
from model.text.tokenizer import Tokenizer
from model.text.tokenizer_bounds import check_tokenizer_data, replace_patterns
from model.translations import LocalizedText

TOKENIZER_JSON, TOKENIZER_MODEL = "tokenizer.json", "tokenizer.model"
# Files that can name special tokens, the most reliable first.
TOKEN_CONFIG_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json",
    "added_tokens.json",
)  # fmt: skip
# Files that belong to the tokenizer alone.
TOKENIZER_FILES = (
    TOKENIZER_JSON, TOKENIZER_MODEL, "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
CHAT_TEMPLATE = "chat_template.jinja"
# A vocabulary is padded to a multiple of PADDED_TO, by fewer rows than MAX_PADDING. With more of
# them it is usually another model's: Mistral 0.3 has 32,768 rows, and older ones 32,000 pieces.
PADDED_TO, MAX_PADDING = 8, 512
# Published models with more padding, by their rows: DeepSeek LLM has 100,015 pieces.
LARGE_PADDINGS = {102_400: 2_401}
# The tokenizers of published models, by the number of rows of their embeddings.
VOCAB_OWNERS = {
    32000: "LLaMA's own", 49953: "Chinese-LLaMA's", 49954: "Chinese-Alpaca's",
    55296: "Chinese-LLaMA-2's",
}  # fmt: skip


def chat_template_in(config: Mapping[str, Any]) -> str | None:
    """The chat template in the content of tokenizer_config.json, if there is one."""
    template = config.get("chat_template")
    if isinstance(template, list):  # several by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        named = {entry.get("name"): entry.get("template") for entry in entries}
        template = named.get("default")
    return template if isinstance(template, str) else None


def has_tokenizer(path: Path) -> bool:
    return any((path / name).is_file() for name in (TOKENIZER_JSON, TOKENIZER_MODEL))


def read_tokenizer(
    path: Path, read: Callable[[str], Mapping[str, Any]] | None = None
) -> tuple[Tokenizer, SpecialTokens]:
    """Reads the tokenizer of the folder `path`: tokenizer.json if it exists, else tokenizer.model.

    Args:
        path: the folder.
        read: returns the content of a JSON file by its name, empty if it does not exist; by
            default from `path`.

    Raises:
        ModelFolderError: there is neither, or it is torn.
    """
    read = read or (lambda name: read_json(path / name, optional=True))
    files = {name: read(name) for name in TOKEN_CONFIG_FILES}
    if (path / TOKENIZER_JSON).is_file():
        return _read_fast(path / TOKENIZER_JSON, files)
    if (path / TOKENIZER_MODEL).is_file():
        return _read_spm(path / TOKENIZER_MODEL, files)
    raise folder_error("tokenizer_missing", folder=path)


def _read_fast(
    file: Path, files: Mapping[str, Mapping[str, Any]]
) -> tuple[Tokenizer, SpecialTokens]:
    try:
        check_not_lfs_pointer(file)
        text = read_text(file)
        data = parse_json(text)
        if replace_patterns(data):
            text = json.dumps(data)
        check_tokenizer_data(data, file.name)
        texts = _vocabulary_texts(data)
        ids = {text: token for token, text in texts.items()}
        special = choose_special(files, Vocabulary(ids.get, texts.get), {})
        return FastTokenizer(file, special.bos, special.eos, text), special
    except ModelFolderError:
        raise
    except BaseException as error:  # a panic in the tokenizers library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise folder_error("tokenizer_unreadable", file=file, reason=reason) from error


def _vocabulary_texts(data: Mapping[str, Any]) -> dict[int, str]:
    """The text of every id in the content of a tokenizer.json."""
    vocab = data["model"]["vocab"]
    if isinstance(vocab, list):  # Unigram: [text, score]
        texts = dict(enumerate(text for text, _ in vocab))
    else:
        texts = {token: text for text, token in vocab.items()}
    return texts | {token["id"]: token["content"] for token in data["added_tokens"]}


def _read_spm(
    file: Path, files: Mapping[str, Mapping[str, Any]]
) -> tuple[Tokenizer, SpecialTokens]:
    spm = open_spm(file)

    def text_of(token: int) -> str | None:
        return spm.id_to_piece(token) if token < spm.get_piece_size() else None

    def id_of(text: str) -> int | None:
        token = spm.piece_to_id(text)  # the unknown token's id if there is no such token
        return token if text_of(token) == text else None

    ids = {"bos": spm.bos_id(), "eos": spm.eos_id()}
    fallback = {kind: spm.id_to_piece(token) for kind, token in ids.items() if token >= 0}
    special = choose_special(files, Vocabulary(id_of, text_of), fallback)
    return SpmTokenizer(file, special), special


def check_vocab_size(tokenizer: Tokenizer, config: Mapping[str, Any], exact: bool = False) -> None:
    """Checks that the tokenizer has a text for every row of the model's embedding.

    Rows that pad the embedding may have none, unless it has to be `exact`.

    Raises:
        ModelFolderError: this is another model's tokenizer; with the numbers.
    """
    rows, vocab_size = int(config["vocab_size"]), tokenizer.vocab_size
    if vocab_size > rows:
        raise folder_error("tokenizer_too_large", pieces=vocab_size, rows=rows)
    if vocab_size < rows and (exact or not is_padded(rows, vocab_size)):
        owner = VOCAB_OWNERS.get(rows)
        likely = LocalizedText("likely_owner", {"rows": rows, "owner": owner}) if owner else ""
        code = "rows_without_text" if exact else "tokenizer_too_small"
        raise folder_error(code, pieces=vocab_size, rows=rows, likely=likely)


def is_padded(rows: int, vocab_size: int) -> bool:
    """Whether an embedding of so many rows can belong to a tokenizer of that size: the other rows,
    if there are any, are padding."""
    padding = rows - vocab_size
    if padding > 0 and rows % PADDED_TO:
        return False
    return 0 <= padding < LARGE_PADDINGS.get(rows, MAX_PADDING)


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """Reads the object in a JSON file; with `optional`, an empty one if the file does not exist.

    Raises:
        ModelFolderError: it is missing, torn, or no object.
    """
    if optional and not path.is_file():
        return {}
    try:
        data = parse_json(read_text(path))
    except FileNotFoundError as error:
        raise folder_error("file_missing", folder=path.parent, name=path.name) from error
    except (OSError, ValueError) as error:
        raise folder_error("file_unreadable", file=path, reason=error) from error
    if not isinstance(data, dict):
        raise folder_error("file_unreadable", file=path, reason=LocalizedText("not_a_json_object"))
    return data
