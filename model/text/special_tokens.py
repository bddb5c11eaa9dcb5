"""Chooses the special tokens of a tokenizer, such as bos and eos, from a folder's files.

Several files can name them. In some published folders a name is empty, or an id is -1 or another
token's. Broken entries are skipped, and reported as findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.diagnostics import Finding, finding

KINDS = ("bos", "eos", "unk", "pad")  # only the first two are used, but all are checked


@dataclass(frozen=True)
class Vocabulary:
    """Looks up a tokenizer's ids and texts, before its special tokens are chosen."""

    id_of: Callable[[str], int | None]
    text_of: Callable[[int], str | None]


@dataclass(frozen=True)
class SpecialTokens:
    """The texts of the tokens that begin and end a text.

    `add_bos` is None if no file sets it. `added` has the ids beyond the vocabulary's file by their
    texts; those in `plain` are text and no control tokens. `repairs` describe broken entries.
    """

    bos: str | None = None
    eos: str | None = None
    add_bos: bool | None = None
    added: Mapping[str, int] = field(default_factory=dict)
    plain: frozenset[int] = frozenset()
    repairs: tuple[Finding, ...] = ()


def choose_special(
    files: Mapping[str, Mapping[str, Any]], vocabulary: Vocabulary, fallback: Mapping[str, str]
) -> SpecialTokens:
    """Chooses the special tokens of a folder.

    Args:
        files: contents of the files that can name them, by file name; the most reliable first.
        vocabulary: the tokens that exist.
        fallback: the texts in the vocabulary's own file, by kind.
    """
    added = added_tokens(files)
    all_tokens = Vocabulary(
        lambda text: added.get(text, vocabulary.id_of(text)),
        lambda token: next((t for t, i in added.items() if i == token), vocabulary.text_of(token)),
    )
    chosen: dict[str, str | None] = {}
    repairs: list[Finding] = []
    for kind in KINDS:
        entries = [(name, entry, _text(entry, all_tokens)) for name, entry in _entries(files, kind)]
        valid = [text for _, _, text in entries if text is not None]
        chosen[kind] = valid[0] if valid else fallback.get(kind)
        repairs += [
            finding("special_token_broken", kind=kind, file=name, value=repr(_content(entry)),
                    used=repr(chosen[kind]) if chosen[kind] else "none")
            for name, entry, text in entries if text is None
        ]  # fmt: skip
    if chosen["eos"] is None:
        repairs.append(finding("eos_missing"))
    add_bos = files.get("tokenizer_config.json", {}).get("add_bos_token")
    return SpecialTokens(
        chosen["bos"],
        chosen["eos"],
        add_bos if isinstance(add_bos, bool) else None,
        added,
        frozenset(
            int(token) for token, entry in _added_entries(files) if entry.get("special") is False
        ),
        tuple(repairs),
    )


def added_tokens(files: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Ids by text, from added_tokens.json and from tokenizer_config.json's added_tokens_decoder."""
    ids = {t: i for t, i in files.get("added_tokens.json", {}).items() if _is_id(i)}
    return ids | {entry["content"]: int(token) for token, entry in _added_entries(files)}


def _added_entries(files: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The valid (id as text, settings) of tokenizer_config.json's added_tokens_decoder."""
    decoder = files.get("tokenizer_config.json", {}).get("added_tokens_decoder")
    return [
        (token, entry)
        for token, entry in (decoder if isinstance(decoder, dict) else {}).items()
        if token.isdecimal() and isinstance(entry, dict) and _is_text(entry.get("content"))
    ]


def end_token_ids(
    config_ids: frozenset[int], tokenizer_eos: int | None, bos: Sequence[int]
) -> frozenset[int]:
    """The ids that end a reply: the configurations' and the tokenizer's.

    Without `bos`, which some broken configurations name, if another id ends a reply.
    """
    has_other = len(config_ids) > 1 or tokenizer_eos not in (None, *bos)
    ids = config_ids - set(bos) if has_other else config_ids
    return ids | (frozenset() if tokenizer_eos is None else {tokenizer_eos})


def _entries(files: Mapping[str, Mapping[str, Any]], kind: str) -> Iterator[tuple[str, Any]]:
    """(file, entry) for each file that names a token of this kind; null names none."""
    for name, content in files.items():
        entry = content.get(f"{kind}_token")
        if entry is not None:
            yield name, entry
        number = content.get(f"{kind}_token_id")
        if isinstance(number, int) and not isinstance(number, bool):
            yield name, number


def _text(entry: Any, vocabulary: Vocabulary) -> str | None:
    """The token's text, or None if the vocabulary does not have the token."""
    if isinstance(entry, int) and not isinstance(entry, bool):
        return vocabulary.text_of(entry) if entry >= 0 else None
    text = _content(entry)
    if not isinstance(text, str) or not text or vocabulary.id_of(text) is None:
        return None
    return text


def _content(entry: Any) -> Any:
    """A token's text, which can be in an object with settings."""
    return entry.get("content") if isinstance(entry, dict) else entry


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
