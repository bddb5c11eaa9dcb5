"""Which tokens begin and end a text: what a folder's files say about it, and which of it is sane.

Three files may name them, and folders are around in which some of these names are empty, or ids
are -1 or another token's. What is broken is left out, and told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from model.diagnostics import Finding, finding

KINDS = ("bos", "eos", "unk", "pad")  # only the first two are used, but all are looked at


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's pieces, before it is known which of them are special."""

    id_of: Callable[[str], int | None]
    text_of: Callable[[int], str | None]


@dataclass(frozen=True)
class SpecialTokens:
    """The texts of the tokens that begin and end a text; `add_bos` None where no file tells.

    `added` are ids beyond the vocabulary's file, by their texts; those of them in `plain` are text
    and no control tokens. `repairs` tell what was broken.
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
    """The special tokens of a folder.

    Args:
        files: contents of the files that may tell, by name; the most reliable first.
        vocabulary: in which they must be.
        fallback: what the vocabulary's own file says, by kind.
    """
    added = added_tokens(files)
    known = Vocabulary(
        lambda text: added.get(text, vocabulary.id_of(text)),
        lambda token: next((t for t, i in added.items() if i == token), vocabulary.text_of(token)),
    )
    chosen: dict[str, str | None] = {}
    repairs: list[Finding] = []
    for kind in KINDS:
        named = [(name, entry) for name, entry in _named(files, kind)]
        sane = [text for _, entry in named if (text := _text(entry, known)) is not None]
        chosen[kind] = sane[0] if sane else fallback.get(kind)
        broken = [(name, entry) for name, entry in named if _text(entry, known) is None]
        repairs += [
            finding("special_token_broken", kind=kind, file=name, value=repr(_plain(entry)),
                    used=repr(chosen[kind]) if chosen[kind] else "none")
            for name, entry in broken
        ]  # fmt: skip
    if chosen["eos"] is None:
        repairs.append(finding("eos_missing"))
    add_bos = files.get("tokenizer_config.json", {}).get("add_bos_token")
    return SpecialTokens(
        chosen["bos"],
        chosen["eos"],
        add_bos if isinstance(add_bos, bool) else None,
        added,
        frozenset(int(token) for token, entry in _listed(files) if entry.get("special") is False),
        tuple(repairs),
    )


def added_tokens(files: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Ids by text: of added_tokens.json, and of tokenizer_config.json's list."""
    found = {t: i for t, i in files.get("added_tokens.json", {}).items() if _is_id(i)}
    return found | {entry["content"]: int(token) for token, entry in _listed(files)}


def _listed(files: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The sane entries of tokenizer_config.json's list: an id as text, and what is told of it."""
    listed = files.get("tokenizer_config.json", {}).get("added_tokens_decoder")
    return [
        (token, entry)
        for token, entry in (listed if isinstance(listed, dict) else {}).items()
        if token.isdecimal() and isinstance(entry, dict) and _is_text(entry.get("content"))
    ]


def sane_ids(ids: frozenset[int], tokenizer_eos: int | None, bos: Sequence[int]) -> frozenset[int]:
    """The ids that end a reply: what the configs say without the token that begins a text, which
    some broken configs name, and what the tokenizer says."""
    told = ids - set(bos) if len(ids) > 1 or tokenizer_eos not in (None, *bos) else ids
    return told | (frozenset() if tokenizer_eos is None else {tokenizer_eos})


def _named(files: Mapping[str, Mapping[str, Any]], kind: str) -> Iterator[tuple[str, Any]]:
    """(file, entry) wherever a file says anything about a kind of token; null says nothing."""
    for name, content in files.items():
        entry = content.get(f"{kind}_token")
        if entry is not None:
            yield name, entry
        number = content.get(f"{kind}_token_id")
        if isinstance(number, int) and not isinstance(number, bool):
            yield name, number


def _text(entry: Any, vocabulary: Vocabulary) -> str | None:
    """The token's text if there is such a token."""
    if isinstance(entry, int) and not isinstance(entry, bool):
        return vocabulary.text_of(entry) if entry >= 0 else None
    text = _plain(entry)
    if not isinstance(text, str) or not text or vocabulary.id_of(text) is None:
        return None
    return text


def _plain(entry: Any) -> Any:
    """A token's text, which may stand in an object with settings."""
    return entry.get("content") if isinstance(entry, dict) else entry


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
