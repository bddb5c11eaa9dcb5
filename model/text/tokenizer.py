"""One interface over tokenizer.json (the tokenizers library) and SentencePiece.

`encode` takes runs: text that may hold control tokens (from a template) and text that must not
(from a person). What a person types is never parsed for control tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import re2

from model.bounded_files import check_not_lfs_pointer, read_file, read_text
from model.diagnostics import folder_error
from model.errors import ModelFolderError, RequestError
from model.text.special_tokens import SpecialTokens
from model.text.tokenizer_bounds import check_charsmap

REPLACEMENT = "�"
CONTEXT_TOKENS = 6  # of the prompt, so that the first piece is decoded as it stands in the text
MARK = "\ufdd3"  # a noncharacter: never part of text that is exchanged
NEVER = -1e9
FEW_LITERALS = 256  # up to here Python's own search is quicker
LITERALS_MEMORY = 256 << 20  # bytes for the automaton of a vocabulary's control tokens
MAX_HELD_TOKENS = (
    8  # tokens; no character takes more, so beyond it the bytes are not going to be text
)


@dataclass(frozen=True)
class TextSpan:
    """A piece of a prompt. Control tokens are recognised only where `control` is True.

    `reply` marks what an assistant said: the part that training learns.
    """

    text: str
    control: bool = True
    reply: bool = False


class Tokenizer(Protocol):
    """Text to token ids and back."""

    vocab_size: int  # ids below this have text
    bos: str | None  # the control tokens' texts; None where the tokenizer has none
    eos: str | None
    eos_id: int | None
    prefix_ids: tuple[int, ...]  # what the model expects before any text: bos, or nothing

    def encode(self, runs: Sequence[TextSpan]) -> list[int]:
        """The ids of the runs put together, with nothing added in front or behind."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without control tokens."""
        ...

    def is_control(self, token_id: int) -> bool:
        """Whether the token is one that steers the model rather than text."""
        ...

    def token_text(self, token_id: int) -> str:
        """A token as it is written in the vocabulary's own text, control tokens included."""
        ...


class FastTokenizer:
    """tokenizer.json through the tokenizers library.

    Args:
        path: the file.
        bos, eos: their texts, from the folder's configuration; None where there is none.
        text: what the file holds, if it was read.
    """

    def __init__(
        self, path: Path, bos: str | None, eos: str | None, text: str | None = None
    ) -> None:
        from tokenizers import Tokenizer as Backend

        self._text = read_text(path) if text is None else text
        self._backend = Backend.from_str(self._text)
        self._apart: tuple[Any, dict[int, int]] | None = None
        tokens = self._backend.get_added_tokens_decoder()
        contents = sorted({t.content for t in tokens.values()} - {""}, key=len, reverse=True)
        self._control = _any_of(contents) if contents else None
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

    def encode(self, runs: Sequence[TextSpan]) -> list[int]:
        whole = "".join(run.text for run in runs)
        if self._only_in_control_runs(whole, runs):
            ids = _encode(self._backend, whole)
            wanted = len(self._control.findall(whole)) if self._control else 0
            if sum(map(self.is_control, ids)) <= wanted:  # else a normaliser has made some
                return ids
        return self._encode_apart(runs)

    def _only_in_control_runs(self, whole: str, runs: Sequence[TextSpan]) -> bool:
        """Whether every control token in the text comes whole from a template."""
        spans, start = [], 0
        for run in runs:
            if run.control:
                spans.append((start, start + len(run.text)))
            start += len(run.text)
        matches = self._control.finditer(whole) if self._control else ()
        return all(any(a <= m.start() and m.end() <= b for a, b in spans) for m in matches)

    def _encode_apart(self, runs: Sequence[TextSpan]) -> list[int]:
        """Somebody typed a control token: only the template's own, marked ones are parsed for."""
        if self._apart is None:
            self._apart = self._with_marked_control_tokens()
        backend, real_ids = self._apart
        parts = split_at_control(runs, self._control)
        text = "".join(f"{MARK}{p.text}" if p.control else p.text.replace(MARK, "") for p in parts)
        ids = _encode(backend, text)
        return [real_ids.get(token_id, token_id) for token_id in ids]

    def _with_marked_control_tokens(self) -> tuple[Any, dict[int, int]]:
        """The tokenizer with a mark before each control token's text, and its ids for theirs."""
        from tokenizers import Tokenizer as Backend

        data = json.loads(self._text)
        _forget(data["model"], set(self._control_ids))
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


def _encode(backend: Any, text: str, add_special_tokens: bool = False) -> list[int]:
    """The ids of `text`. A batch of one, as `encode` would stop all other threads: for a long chat,
    a tenth of a second.

    Raises:
        RequestError: the library cannot.
    """
    try:
        batch = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        ids: list[int] = batch[0].ids
    except BaseException as error:
        # A panic in Rust, as when a pattern is tried too often, is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise RequestError("tokenizer_cannot_read") from None
    return ids


def _any_of(longest_first: Sequence[str]) -> re.Pattern[str]:
    """Matches any of these texts. Python's search tries one after the other at each place, which
    takes long with a whole vocabulary of them; RE2 has a pattern's methods, too."""
    pattern = "|".join(map(re.escape, longest_first))
    if len(longest_first) <= FEW_LITERALS:
        return re.compile(pattern)
    options = re2.Options()
    options.max_mem = LITERALS_MEMORY
    options.literal = False
    return re2.compile("|".join(map(re2.escape, longest_first)), options)


def _forget(model: dict[str, Any], contents: set[str]) -> None:
    """Take control tokens out of the words that text may become."""
    contents = contents - {model.get("unk_token")}
    if isinstance(model["vocab"], list):  # Unigram: [piece, score]
        model["vocab"] = [[p, NEVER if p in contents else s] for p, s in model["vocab"]]
        return
    model["vocab"] = {p: i for p, i in model["vocab"].items() if p not in contents}
    merges = [m.split(" ", 1) if isinstance(m, str) else m for m in model.get("merges", [])]
    model["merges"] = [m for m in merges if "".join(m) not in contents and not contents & set(m)]


def open_spm(path: Path) -> Any:
    """sentencepiece's processor for the model at `path`.

    Raises:
        ModelFolderError: it is none.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    try:
        check_not_lfs_pointer(path)
        content = read_file(path)
        proto = sentencepiece_model_pb2.ModelProto.FromString(content)
        check_charsmap(proto.normalizer_spec.precompiled_charsmap)
        check_charsmap(proto.denormalizer_spec.precompiled_charsmap)
        if not proto.pieces:
            raise ValueError("it contains no pieces")
        return SentencePieceProcessor(model_proto=content)
    except ModelFolderError:
        raise
    except Exception as error:  # protobuf, sentencepiece and the disk each have their own
        raise folder_error("spm_unreadable", file=path) from error


class SpmTokenizer:
    """tokenizer.model through sentencepiece itself, whose ids are the model's ids.

    Args:
        path: the file.
        special: what the folder says about it; by default the file's own word counts.
    """

    def __init__(self, path: Path, special: SpecialTokens | None = None) -> None:
        self._spm = open_spm(path)
        self._own = self._spm.get_piece_size()
        special = special or self._special_of_its_own()
        added = {text: token for text, token in special.added.items() if token >= self._own}
        self._added = {token: text for text, token in added.items()}
        self._plain = special.plain & self._added.keys()
        self.vocab_size = max(self._own, *(token + 1 for token in self._added), 0)
        names = [self._spm.id_to_piece(i) for i in range(self._own) if self._spm.is_control(i)]
        self._ids = {name: self._spm.piece_to_id(name) for name in names} | added
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._control = _any_of(longest_first) if names else None
        self.bos, self.eos = special.bos, special.eos
        self.unk = self._spm.id_to_piece(self._spm.unk_id()) if self._spm.unk_id() >= 0 else None
        self.eos_id = None if self.eos is None else self._id(self.eos)
        wanted = self.bos is not None and special.add_bos is not False
        self.prefix_ids: tuple[int, ...] = (self._id(self.bos),) if wanted and self.bos else ()

    def _special_of_its_own(self) -> SpecialTokens:
        bos, eos = self._spm.bos_id(), self._spm.eos_id()
        return SpecialTokens(
            self._spm.id_to_piece(bos) if bos >= 0 else None,
            self._spm.id_to_piece(eos) if eos >= 0 else None,
        )

    def _id(self, text: str) -> int:
        return self._ids[text] if text in self._ids else int(self._spm.piece_to_id(text))

    def encode(self, runs: Sequence[TextSpan]) -> list[int]:
        ids: list[int] = []
        for part in split_at_control(runs, self._control):
            if part.control:
                ids.append(self._ids[part.text])
            else:
                ids.extend(self._spm.encode(part.text))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        kept = [i for i in ids if not self.is_control(i)]
        parts = [list(part) for _, part in groupby(kept, self._plain.__contains__)]
        return "".join(map(self._text, parts))

    def _text(self, ids: list[int]) -> str:
        """Of pieces that are all the model's own, or all added."""
        if ids[0] in self._plain:
            return "".join(self._added[i] for i in ids)
        text: str = self._spm.decode(ids)
        return text

    def is_control(self, token_id: int) -> bool:
        if token_id >= self._own:
            return token_id not in self._plain
        return bool(self._spm.is_control(token_id))

    def token_text(self, token_id: int) -> str:
        if token_id >= self._own:
            return self._added.get(token_id, "")
        text: str = self._spm.id_to_piece(token_id)
        return text.replace("▁", " ")


def to_text_with_control_tokens(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Ids as text for whoever tokenizes it again, control tokens included: without what the model
    expects in front of any text, which is put there again.

    Not the same to the last id: a control token that somebody typed becomes one.
    """
    lead = tokenizer.prefix_ids
    kept = ids[len(lead) :] if tuple(ids[: len(lead)]) == lead else ids
    parts = [(control, list(part)) for control, part in groupby(kept, tokenizer.is_control)]
    return "".join(
        "".join(map(tokenizer.token_text, part)) if control else tokenizer.decode(part)
        for control, part in parts
    )


def split_at_control(runs: Sequence[TextSpan], control: re.Pattern[str] | None) -> list[TextSpan]:
    """Control tokens of the control runs, each alone; all text between two of them in one run."""
    parts: list[TextSpan] = []
    text = ""
    for run in runs:
        at = 0
        for match in control.finditer(run.text) if control and run.control else ():
            text += run.text[at : match.start()]
            parts += [TextSpan(text, control=False)] if text else []
            parts.append(TextSpan(match.group()))
            text, at = "", match.end()
        text += run.text[at:]
    return [*parts, TextSpan(text, control=False)] if text else parts


class IncrementalDetokenizer:
    """Token by token, the text that is certain: a character split over tokens comes whole.

    Decodes a short window again for each token, starting where the last certain text began, so
    that a tokenizer's rules about spaces see what stands before.

    Args:
        decode: ids to text.
        token_text: one id to text.
        prompt_ids: what the reply follows; only the last few matter.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        token_text: Callable[[int], str],
        prompt_ids: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self.token_text = token_text
        self._window = list(prompt_ids[-CONTEXT_TOKENS:])
        self._certain = len(self._window)
        self._before = self._decode(self._window)  # the text of the certain tokens alone
        self._shown = 0  # characters behind it that are out already
        self._held = 0  # tokens since text last came out

    def push(self, token_id: int) -> str:
        self._window.append(token_id)
        self._held += 1
        text = self._new_text()
        whole = text.rstrip(REPLACEMENT)
        torn = whole != text and self._held < MAX_HELD_TOKENS
        new = (whole if torn else text)[self._shown :]
        if new:
            self._held = 0
        if torn:
            self._shown += len(new)
        elif text:
            self._settle(self._window[self._certain :])
        return new

    def flush(self) -> str:
        """What is left when the reply ends; an unfinished character is dropped."""
        text = self._new_text().rstrip(REPLACEMENT)[self._shown :]
        self._settle(self._window)
        return text

    def _settle(self, window: list[int]) -> None:
        """Go on behind the tokens of `window`, whose text is certain."""
        self._window, self._certain, self._shown = window, len(window), 0
        self._before = self._decode(window)

    def _new_text(self) -> str:
        return self._decode(self._window)[len(self._before) :]
