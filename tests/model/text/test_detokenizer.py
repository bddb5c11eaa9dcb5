"""Streamed text: tokens become complete characters, one by one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from model.text.detokenizer import IncrementalDetokenizer
from model.text.fast_tokenizer import FastTokenizer
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer import TextSpan
from tests.model.tokenizers import (
    END,
    FAMILY,
    ORDINARY,
    SENTENCES,
    TORN,
    stream,
    typed,
)


@pytest.fixture(scope="module")
def spm_library(spm: SpmTokenizer, folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def save(backend: Backend, path: Path, bos: str | None = None, eos: str | None = None) -> Any:
    backend.save(str(path))
    return FastTokenizer(path, bos, eos)


STREAMED = [text for text in ORDINARY if text] + SENTENCES
CHARACTERS = "你好世界！天气很，🙂👍🏽é🇨🇳ab 龘\n" + FAMILY


def random_texts() -> list[str]:
    rng = random.Random(0)  # noqa: S311
    return ["".join(rng.choices(CHARACTERS, k=40)) for _ in range(20)]


@pytest.mark.parametrize("text", STREAMED)
def test_streamed_text_is_the_complete_text(
    text: str, fast: FastTokenizer, spm: SpmTokenizer, unigram: SpmTokenizer
) -> None:
    for tokenizer in (fast, spm, unigram):
        ids = tokenizer.encode([typed(text)])
        assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids)


@pytest.mark.parametrize("text", random_texts())
def test_push_never_returns_an_incomplete_character(
    text: str, fast: FastTokenizer, spm: SpmTokenizer
) -> None:
    for tokenizer in (fast, spm):
        pieces = stream(tokenizer, tokenizer.encode([typed(text)]))
        assert not any(TORN in piece for piece in pieces)
        assert "".join(pieces) == text


def test_push_returns_text_as_soon_as_it_is_certain(fast: FastTokenizer, spm: SpmTokenizer) -> None:
    for tokenizer in (fast, spm):
        pieces = stream(tokenizer, tokenizer.encode([typed("The lazy dog")]))
        assert all(pieces[:-1])
        assert pieces[-1] == ""


def test_push_returns_no_incomplete_character_if_tokens_cross_characters(tmp_path: Path) -> None:
    """Byte-level BPE may merge the last byte of a character with the first of the next."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    last, first = list(byte_level.pre_tokenize_str("一一")[0][0])[2:4]
    vocab = {piece: i for i, piece in enumerate([*alphabet, last + first])}
    backend = Backend(models.BPE(vocab=vocab, merges=[(last, first)]))
    backend.pre_tokenizer = byte_level
    backend.decoder = decoders.ByteLevel()
    tokenizer = save(backend, tmp_path / "tokenizer.json")
    ids = tokenizer.encode([typed("一" * 20)])
    assert len(ids) < 60  # the merge is used
    pieces = stream(tokenizer, ids)
    assert not any(TORN in piece for piece in pieces)
    assert "".join(pieces) == "一" * 20


@pytest.mark.parametrize("character", ["龘", "🙂", "é"])
def test_unfinished_character_is_dropped_at_the_end(
    character: str, fast: FastTokenizer, spm: SpmTokenizer
) -> None:
    for tokenizer in (fast, spm):
        ids = tokenizer.encode([typed(f"ok{character}")])
        assert len(tokenizer.encode([typed("ok")])) < len(ids) - 1  # it takes several tokens
        assert "".join(stream(tokenizer, ids[:-1])) == "ok"


def test_flush_returns_nothing_the_second_time(fast: FastTokenizer) -> None:
    detokenizer = IncrementalDetokenizer(fast.decode, fast.token_bytes)
    for token_id in fast.encode([typed("ok🙂")])[:-1]:
        detokenizer.push(token_id)
    detokenizer.flush()
    assert detokenizer.flush() == ""


def test_bytes_that_never_become_text_do_not_delay_the_reply(fast: FastTokenizer) -> None:
    stray = fast.encode([typed("龘")])[-1]  # a byte that continues a character
    pieces = stream(fast, [stray] * 20 + fast.encode([typed(" and on")]))
    assert any(pieces[:20])
    assert "".join(pieces).endswith(" and on")


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("User: hi\nBot:", " hello there"),
        ("User: hi\nBot: ", "hello there"),
        ("hello", " there"),
        ("hel", "lo"),
        ("hello ", " there"),
        ("a\n", "  indented"),
        ("x =", " 1"),
        ("你好", "，世界"),
        ("", "hello"),
    ],
)
def test_space_between_prompt_and_reply_is_kept(
    prompt: str, reply: str, fast: FastTokenizer, spm: SpmTokenizer
) -> None:
    for tokenizer in (fast, spm):
        before = [*tokenizer.prefix_ids, *tokenizer.encode([TextSpan(prompt)])]
        full_ids = [*tokenizer.prefix_ids, *tokenizer.encode([TextSpan(prompt + reply)])]
        if full_ids[: len(before)] != before:
            # The tokenizer splits the text differently, so the reply is encoded letter by letter.
            letters = (tokenizer.encode([typed("." + letter)])[-1] for letter in reply)
            full_ids = [*before, *letters]
        pieces = stream(tokenizer, full_ids[len(before) :], before)
        assert prompt + "".join(pieces) == tokenizer.decode(full_ids)


def test_first_word_keeps_its_space_after_a_prompt(
    spm: SpmTokenizer, spm_library: SentencePieceProcessor
) -> None:
    """SentencePiece drops a leading space: a reply decoded alone would lose it."""
    hello = spm_library.encode("hello")
    assert spm.token_text(hello[0]).startswith(" ")
    prompt = [1, *spm_library.encode("Bot:")]
    assert "".join(stream(spm, hello, prompt)) == " hello"
    assert "".join(stream(spm, hello, [1])) == "hello"


def test_long_prompt_gives_the_same_pieces(fast: FastTokenizer, spm: SpmTokenizer) -> None:
    for tokenizer in (fast, spm):
        prompt = tokenizer.encode([typed("今天天气很好。 hello" * 10)])
        reply = tokenizer.encode([typed(" dog 🙂")])
        expected = tokenizer.decode(prompt + reply)[len(tokenizer.decode(prompt)) :]
        assert "".join(stream(tokenizer, reply, prompt)) == expected


def test_control_token_within_a_reply_gives_no_text(fast: FastTokenizer) -> None:
    ids = fast.encode([TextSpan(f"hi{END} there")])
    pieces = stream(fast, ids)
    assert "".join(pieces) == "hi there"
    assert pieces[[fast.token_text(token_id) for token_id in ids].index(END)] == ""


def test_converted_llama_tokenizer_streams_complete_characters(tmp_path: Path) -> None:
    """A tokenizer.json converted from LLaMA's tokenizer.model: byte tokens, no regex."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *"▁hi", "▁h", "▁hi"]
    backend = Backend(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(pieces)},
            merges=[("▁", "h"), ("▁h", "i")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in pieces[:3]])
    tokenizer = save(backend, tmp_path / "tokenizer.json", "<s>", "</s>")
    text = f"hi 世界 hi {FAMILY}"
    pieces = stream(tokenizer, tokenizer.encode([TextSpan("<s>"), typed(text)]))
    assert not any(TORN in piece for piece in pieces)
    assert "".join(pieces) == text
