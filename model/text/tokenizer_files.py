"""The tokenizer of a folder: which of its files is read, what is repaired, and whether it fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.bounded_files import check_not_lfs_pointer, parse_json, read_text
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.text.special_tokens import SpecialTokens, Vocabulary, choose_special
from model.text.tokenizer import FastTokenizer, SpmTokenizer, Tokenizer, open_spm
from model.text.tokenizer_bounds import check_tokenizer_data, replace_patterns
from model.translations import LocalizedText

FAST, SPM = "tokenizer.json", "tokenizer.model"
# What may name special tokens, the most reliable first.
TELLING = (
    "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json",
    "added_tokens.json",
)  # fmt: skip
# What makes up a tokenizer, and nothing else.
TOKENIZER = (FAST, SPM, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# A vocabulary is padded to a multiple of PADDED_TO, by fewer rows than MAX_PADDING.
PADDED_TO, MAX_PADDING = 8, 512
# Whose tokenizer a model with so many rows has, as far as published models go.
OWNERS = {
    32000: "LLaMA's own", 49953: "Chinese-LLaMA's", 49954: "Chinese-Alpaca's",
    55296: "Chinese-LLaMA-2's",
}  # fmt: skip


def has_tokenizer(path: Path) -> bool:
    return any((path / name).is_file() for name in (FAST, SPM))


def read_tokenizer(
    path: Path, read: Callable[[str], Mapping[str, Any]] | None = None
) -> tuple[Tokenizer, SpecialTokens]:
    """The tokenizer of the folder `path`: tokenizer.json if there is one, else tokenizer.model.

    Args:
        path: the folder.
        read: returns a JSON file by its name, empty where there is none; by default from `path`.

    Raises:
        ModelFolderError: there is none, or it is torn.
    """
    read = read or (lambda name: read_json(path / name, optional=True))
    files = {name: read(name) for name in TELLING}
    if (path / FAST).is_file():
        return _fast(path / FAST, files)
    if (path / SPM).is_file():
        return _spm(path / SPM, files)
    raise folder_error("tokenizer_missing", folder=path)


def _fast(file: Path, files: Mapping[str, Mapping[str, Any]]) -> tuple[Tokenizer, SpecialTokens]:
    try:
        check_not_lfs_pointer(file)
        text = read_text(file)
        data = parse_json(text)
        if replace_patterns(data):
            text = json.dumps(data)
        check_tokenizer_data(data, file.name)
        held = data["model"]["vocab"]
        pairs = (
            enumerate(p for p, _ in held) if isinstance(held, list) else map(reversed, held.items())
        )
        texts = dict(pairs) | {token["id"]: token["content"] for token in data["added_tokens"]}
        ids = {text: token for token, text in texts.items()}
        special = choose_special(files, Vocabulary(ids.get, texts.get), {})
        return FastTokenizer(file, special.bos, special.eos, text), special
    except ModelFolderError:
        raise
    except BaseException as error:  # a panic in the tokenizers library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise folder_error("tokenizer_unreadable", file=file, said=said) from error


def _spm(file: Path, files: Mapping[str, Mapping[str, Any]]) -> tuple[Tokenizer, SpecialTokens]:
    spm = open_spm(file)

    def text_of(token: int) -> str | None:
        return spm.id_to_piece(token) if token < spm.get_piece_size() else None

    def id_of(text: str) -> int | None:
        token = spm.piece_to_id(text)  # the unknown piece's, where there is no such piece
        return token if text_of(token) == text else None

    own = {"bos": spm.bos_id(), "eos": spm.eos_id()}
    fallback = {kind: spm.id_to_piece(token) for kind, token in own.items() if token >= 0}
    special = choose_special(files, Vocabulary(id_of, text_of), fallback)
    return SpmTokenizer(file, special), special


def check_pieces(tokenizer: Tokenizer, config: Mapping[str, Any], exact: bool = False) -> None:
    """Whether every row of the model has text; with `exact`, padding is not supposed.

    Raises:
        ModelFolderError: this is another model's tokenizer; with the numbers.
    """
    rows, pieces = int(config["vocab_size"]), tokenizer.vocab_size
    if pieces > rows:
        raise folder_error("tokenizer_too_large", pieces=pieces, rows=rows)
    padded = rows % PADDED_TO == 0 and rows - pieces < MAX_PADDING and not exact
    if pieces < rows and not padded:
        owner = OWNERS.get(rows)
        likely = LocalizedText("likely_owner", {"rows": rows, "owner": owner}) if owner else ""
        code = "rows_without_text" if exact else "tokenizer_too_small"
        raise folder_error(code, pieces=pieces, rows=rows, likely=likely)


def read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    """The object in a JSON file; with `optional`, empty where there is no such file.

    Raises:
        ModelFolderError: it is missing, torn, or something else than an object.
    """
    if optional and not path.is_file():
        return {}
    try:
        data = parse_json(read_text(path))
    except FileNotFoundError as error:
        raise folder_error("file_missing", folder=path.parent, name=path.name) from error
    except (OSError, ValueError) as error:
        raise folder_error("file_unreadable", file=path, said=error) from error
    if not isinstance(data, dict):
        raise folder_error("file_unreadable", file=path, said=LocalizedText("not_a_json_object"))
    return data
