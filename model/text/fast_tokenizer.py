"""Tokenizer over tokenizer.json, with the tokenizers library."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from model.bounded_files import read_text
from model.errors import RequestError
from model.text.tokenizer import (
    THOUGHT_TAGS,
    TextSpan,
    match_any,
    parse_byte_piece,
    split_at_control,
)

MARK = "\ufdd3"  # a noncharacter: never part of exchanged text
NEG_INF = -1e9  # a Unigram score with which a token is never chosen


class FastTokenizer:
    """tokenizer.json through the tokenizers library.

    Args:
        path: the file.
        bos, eos: their texts, from the folder's configuration; None if there is none.
        text: the file's content, if the caller has read it.
    """

    def __init__(
        self, path: Path, bos: str | None, eos: str | None, text: str | None = None
    ) -> None:
        from tokenizers import Tokenizer as Backend

        self._text = _with_visible_tags(read_text(path) if text is None else text)
        self._backend = Backend.from_str(self._text)
        decoder = self._backend.decoder
        self._decoder = decoder.__getstate__().decode() if decoder else ""  # JSON
        self._marked: tuple[Any, dict[int, int]] | None = None
        tokens = self._backend.get_added_tokens_decoder()
        contents = sorted({t.content for t in tokens.values()} - {""}, key=len, reverse=True)
        self._control = match_any(contents) if contents else None
        self._control_ids = {token.content: token_id for token_id, token in tokens.items()}
        self._controls = frozenset(self._control_ids.values())
        self._backend.no_padding()
        self._backend.no_truncation()
        self.vocab_size = max(self._backend.get_vocab(with_added_tokens=True).values()) + 1
        self.bos, self.eos = bos or None, eos or None
        self.eos_id = self._backend.token_to_id(eos) if eos else None
        bos_id = self._backend.token_to_id(bos) if bos else None
        first = _encode(self._backend, "a", add_special_tokens=True)[:1]
        self.prefix_ids = tuple(first) if first == [bos_id] else ()

    def encode(self, spans: Sequence[TextSpan]) -> list[int]:
        full_text = "".join(span.text for span in spans)
        if self._only_in_control_spans(full_text, spans):
            ids = _encode(self._backend, full_text)
            expected = len(self._control.findall(full_text)) if self._control else 0
            if sum(map(self.is_control, ids)) <= expected:  # else a normaliser made more of them
                return ids
        return self._encode_marked(spans)

    def _only_in_control_spans(self, full_text: str, spans: Sequence[TextSpan]) -> bool:
        """Whether every control token in the text is completely in a template's span."""
        spans = [span for span in spans if span.text]
        starts = list(accumulate((len(span.text) for span in spans), initial=0))
        for match in self._control.finditer(full_text) if self._control else ():
            index = bisect_right(starts, match.start()) - 1
            if not spans[index].control or match.end() > starts[index + 1]:
                return False
        return True

    def _encode_marked(self, spans: Sequence[TextSpan]) -> list[int]:
        """Encodes text in which a user typed a control token: marks the template's, and parses only
        these."""
        if self._marked is None:
            self._marked = self._with_marked_control_tokens()
        backend, real_ids = self._marked
        parts = split_at_control(spans, self._control)
        text = "".join(f"{MARK}{p.text}" if p.control else p.text.replace(MARK, "") for p in parts)
        ids = _encode(backend, text)
        return [real_ids.get(token_id, token_id) for token_id in ids]

    def _with_marked_control_tokens(self) -> tuple[Any, dict[int, int]]:
        """A tokenizer with a mark before each control token, and the real ids by its ids."""
        from tokenizers import Tokenizer as Backend

        data = json.loads(self._text)
        _remove_from_vocabulary(data["model"], set(self._control_ids))
        for token in data["added_tokens"]:
            token["content"] = MARK + token["content"]
        backend = Backend.from_str(json.dumps({**data, "post_processor": None}))
        backend.no_padding()
        backend.no_truncation()
        ids = self._control_ids.items()
        marked = backend.get_vocab(with_added_tokens=True)
        return backend, {marked[MARK + text]: token_id for text, token_id in ids}

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._backend.decode(list(ids), skip_special_tokens=True)
        return text

    def is_control(self, token_id: int) -> bool:
        return token_id in self._controls

    def token_text(self, token_id: int) -> str:
        text: str = self._backend.decode([token_id], skip_special_tokens=False)
        return text

    def token_bytes(self, token_id: int) -> bytes:
        piece = self._backend.id_to_token(token_id) or ""
        if self.is_control(token_id):
            return piece.encode()
        if "ByteLevel" in self._decoder:
            letters = byte_letters()
            return b"".join(letters.get(letter, letter.encode()) for letter in piece)
        byte = parse_byte_piece(piece) if "ByteFallback" in self._decoder else b""
        return byte or piece.replace("▁", " ").encode()


@cache
def byte_letters() -> dict[str, bytes]:
    """The byte for each letter with which a byte-level vocabulary writes it (GPT-2's table)."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in visible]
    letters = {chr(byte): bytes([byte]) for byte in visible}
    return letters | {chr(0x100 + i): bytes([byte]) for i, byte in enumerate(others)}


def _encode(backend: Any, text: str, add_special_tokens: bool = False) -> list[int]:
    """The ids of `text`.

    Encodes a batch of one, because the library's `encode` keeps the interpreter's lock, for a long
    chat a tenth of a second.

    Raises:
        RequestError: the library cannot encode it.
    """
    try:
        batch = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = batch[0].ids
    except BaseException as error:
        # A panic in Rust, as when a pattern backtracks too often, is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise RequestError("tokenizer_cannot_read") from None
    return ids


def _with_visible_tags(text: str) -> str:
    """tokenizer.json with the tags of a thought as tokens that decoding shows, as most models have
    them."""
    if not any(json.dumps(tag) in text for tag in THOUGHT_TAGS):
        return text
    data = json.loads(text)
    for token in data.get("added_tokens", ()):
        if token["content"] in THOUGHT_TAGS:
            token["special"] = False
    return json.dumps(data)


def _remove_from_vocabulary(model: dict[str, Any], contents: set[str]) -> None:
    """Removes control tokens from the vocabulary, so that no text is encoded as one."""
    contents = contents - {model.get("unk_token")}
    if isinstance(model["vocab"], list):  # Unigram: [piece, score]
        model["vocab"] = [[p, NEG_INF if p in contents else s] for p, s in model["vocab"]]
        return
    model["vocab"] = {p: i for p, i in model["vocab"].items() if p not in contents}
    merges = [m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges", [])]
    model["merges"] = [m for m in merges if "".join(m) not in contents and not contents & set(m)]
