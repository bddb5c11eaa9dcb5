"""Tokenizer over a SentencePiece model, with the sentencepiece library."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from model.bounded_files import check_not_lfs_pointer, read_file
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.text.special_tokens import SpecialTokens
from model.text.tokenizer import (
    THOUGHT_TAGS,
    TextSpan,
    match_any,
    parse_byte_piece,
    split_at_control,
)
from model.text.tokenizer_bounds import check_charsmap


def open_spm(path: Path) -> Any:
    """Opens the SentencePiece model at `path` with sentencepiece's processor.

    Raises:
        ModelFolderError: it is no such model.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    try:
        check_not_lfs_pointer(path)
        content = read_file(path)
        proto = sentencepiece_model_pb2.ModelProto.FromString(content)
        check_charsmap(proto.normalizer_spec.precompiled_charsmap)
        check_charsmap(proto.denormalizer_spec.precompiled_charsmap)
        if not proto.pieces:
            raise ValueError("its vocabulary is empty")
        return SentencePieceProcessor(model_proto=content)
    except ModelFolderError:
        raise
    except Exception as error:  # protobuf, sentencepiece and the disk each raise their own
        raise folder_error("spm_unreadable", file=path) from error


class SpmTokenizer:
    """tokenizer.model through the sentencepiece library, whose ids are the model's ids.

    Args:
        path: the file.
        special: the special tokens of its folder; by default those of the file itself.
    """

    def __init__(self, path: Path, special: SpecialTokens | None = None) -> None:
        self._spm = open_spm(path)
        self._spm_size = self._spm.get_piece_size()
        special = special or self._special_tokens_of_file()
        added = {text: token for text, token in special.added.items() if token >= self._spm_size}
        self._added = {token: text for text, token in added.items()}
        tags = {token for token, text in self._added.items() if text in THOUGHT_TAGS}
        self._plain = (special.plain | tags) & self._added.keys()
        self.vocab_size = max(self._spm_size, *(token + 1 for token in self._added), 0)
        names = [self._spm.id_to_piece(i) for i in range(self._spm_size) if self._spm.is_control(i)]
        self._ids = {name: self._spm.piece_to_id(name) for name in names} | added
        longest_first = sorted(self._ids, key=len, reverse=True)
        self._control = match_any(longest_first) if names else None
        self.bos, self.eos = special.bos, special.eos
        self.unk = self._spm.id_to_piece(self._spm.unk_id()) if self._spm.unk_id() >= 0 else None
        self.eos_id = None if self.eos is None else self._id(self.eos)
        add_bos = self.bos is not None and special.add_bos is not False
        self.prefix_ids: tuple[int, ...] = (self._id(self.bos),) if add_bos and self.bos else ()

    def _special_tokens_of_file(self) -> SpecialTokens:
        bos, eos = self._spm.bos_id(), self._spm.eos_id()
        return SpecialTokens(
            self._spm.id_to_piece(bos) if bos >= 0 else None,
            self._spm.id_to_piece(eos) if eos >= 0 else None,
        )

    def _id(self, text: str) -> int:
        return self._ids[text] if text in self._ids else int(self._spm.piece_to_id(text))

    def encode(self, spans: Sequence[TextSpan]) -> list[int]:
        ids: list[int] = []
        for part in split_at_control(spans, self._control):
            if part.control:
                ids.append(self._ids[part.text])
            else:
                ids.extend(self._spm.encode(part.text))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        text_ids = [i for i in ids if not self.is_control(i)]
        parts = [list(part) for _, part in groupby(text_ids, self._plain.__contains__)]
        return "".join(map(self._decode_part, parts))

    def _decode_part(self, ids: list[int]) -> str:
        """The text of tokens that are all in the SentencePiece model, or all added to it."""
        if ids[0] in self._plain:
            return "".join(self._added[i] for i in ids)
        text: str = self._spm.decode(ids)
        return text

    def is_control(self, token_id: int) -> bool:
        if token_id >= self._spm_size:
            return token_id not in self._plain
        return bool(self._spm.is_control(token_id))

    def token_text(self, token_id: int) -> str:
        if token_id >= self._spm_size:
            return self._added.get(token_id, "")
        text: str = self._spm.id_to_piece(token_id)
        return text.replace("▁", " ")

    def token_bytes(self, token_id: int) -> bytes:
        if token_id < self._spm_size and self._spm.is_byte(token_id):
            return parse_byte_piece(self._spm.id_to_piece(token_id))
        return self.token_text(token_id).encode()
