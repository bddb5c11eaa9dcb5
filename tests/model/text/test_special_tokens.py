"""Special tokens of a folder: the first valid entry is used, and broken ones are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from model.text.fast_tokenizer import FastTokenizer
from model.text.special_tokens import end_token_ids
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer import TextSpan, Tokenizer
from model.text.tokenizer_files import read_tokenizer
from tests.model.tokenizers import END, LIKE_LLAMA, LIKE_T5, SENTENCES, START, make_fast, write_spm

Files = dict[str, dict[str, Any]]


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def spm(folder: Path, files: Files, **options: Any) -> tuple[Tokenizer, list[str]]:
    """The tokenizer of a SentencePiece folder, and the codes of its repairs."""
    write_spm(folder / "tokenizer.model", **(options or LIKE_LLAMA))
    write(folder, files)
    tokenizer, special = read_tokenizer(folder)
    return tokenizer, [found.code for found in special.repairs]


NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer_config.json": NAMES},
        {"special_tokens_map.json": {"bos_token": {"content": "<s>", "lstrip": False}}},
        {"config.json": {"bos_token_id": 1, "eos_token_id": 2}},
        {"tokenizer_config.json": {"bos_token": None, "eos_token": None}},
    ],
)
def test_valid_files_name_the_models_own_tokens(files: Files, tmp_path: Path) -> None:
    tokenizer, repaired = spm(tmp_path, files)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.eos_id) == ("<s>", "</s>", 2)
    assert tokenizer.prefix_ids == (1,)
    assert repaired == []


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"bos_token": "", "eos_token": "", "unk_token": ""}},
        {"special_tokens_map.json": {"bos_token": {"content": ""}, "eos_token": "<|missing|>"}},
        {"special_tokens_map.json": {"bos_token": ["<s>"], "eos_token": {"content": ["x"]}}},
        {"tokenizer_config.json": {"bos_token": True, "eos_token": 1.5}},
        {"config.json": {"bos_token_id": -1, "eos_token_id": 100_000, "pad_token_id": -1}},
    ],
)
def test_broken_names_are_repaired_and_reported(files: Files, tmp_path: Path) -> None:
    """Without the repair, SentencePiece raised "piece id is out of range", or replies had no
    end."""
    tokenizer, repaired = spm(tmp_path, files)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.prefix_ids) == ("<s>", "</s>", (1,))
    assert set(repaired) == {"special_token_broken"}
    assert len(repaired) >= 2


def test_the_valid_one_of_two_files_is_used(tmp_path: Path) -> None:
    files: Files = {
        "tokenizer_config.json": {"bos_token": "", "eos_token": ""},
        "special_tokens_map.json": {"bos_token": "<s>", "eos_token": "<0x0A>"},
    }
    tokenizer, repaired = spm(tmp_path, files)
    assert tokenizer.eos == "<0x0A>"
    assert len(repaired) == 2


@pytest.mark.parametrize(("add_bos", "prefix"), [(True, (1,)), (False, ()), (None, (1,))])
def test_prefix_has_bos_unless_the_config_forbids_it(
    add_bos: bool | None, prefix: tuple[int, ...], tmp_path: Path
) -> None:
    files: Files = {"tokenizer_config.json": {**NAMES, "add_bos_token": add_bos}}
    assert spm(tmp_path, files)[0].prefix_ids == prefix


KINDS = {
    "bpe": LIKE_LLAMA,
    "unigram": LIKE_T5,
    "bpe without bytes": {**LIKE_LLAMA, "byte_fallback": False, "vocab_size": 170},
    "unigram with bytes": {**LIKE_T5, "byte_fallback": True, "vocab_size": 330},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_kind_of_model_gives_its_own_ids(options: dict[str, Any], tmp_path: Path) -> None:
    tokenizer, _ = spm(tmp_path, {"tokenizer_config.json": NAMES}, **options)
    source = SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in [*SENTENCES, "  two  spaces ", "\n\n", "never seen: ☃"]:
        ids = tokenizer.encode([TextSpan(text, control=False)])
        assert ids == source.encode(text)
        assert tokenizer.decode(ids) == source.decode(ids)


def test_a_model_without_bos_has_none(tmp_path: Path) -> None:
    tokenizer, repaired = spm(tmp_path, {}, **{**LIKE_LLAMA, "bos_id": -1})
    assert (tokenizer.bos, tokenizer.prefix_ids) == (None, ())
    assert repaired == []


# Tokens added to the model's own


def test_added_tokens_have_ids_after_the_models_own(tmp_path: Path) -> None:
    """As Chinese-Alpaca's pad token."""
    size = LIKE_LLAMA["vocab_size"]
    tokenizer, repaired = spm(
        tmp_path, {"added_tokens.json": {"[PAD]": size, "<|user|>": size + 1}}
    )
    assert tokenizer.vocab_size == size + 2
    assert repaired == []
    ids = tokenizer.encode([TextSpan("<|user|>"), TextSpan("hello [PAD]", control=False)])
    assert ids[0] == size + 1
    assert size not in ids  # what a user types stays text
    assert tokenizer.decode([*ids, size]) == "hello [PAD]"
    assert tokenizer.is_control(size)
    assert tokenizer.token_text(size) == "[PAD]"


def test_added_tokens_that_are_text_are_decoded(tmp_path: Path) -> None:
    size = LIKE_LLAMA["vocab_size"]
    decoder = {
        str(size): {"content": "lighthouse", "special": False},
        str(size + 1): {"content": "<|end|>", "special": True},
    }
    tokenizer, _ = spm(tmp_path, {"tokenizer_config.json": {"added_tokens_decoder": decoder}})
    hello = tokenizer.encode([TextSpan("hello ", control=False)])
    assert tokenizer.decode([*hello, size, size + 1]).split() == ["hello", "lighthouse"]
    assert not tokenizer.is_control(size)


# tokenizer.json


@pytest.mark.parametrize(
    ("files", "repairs"),
    [
        ({"tokenizer_config.json": {"bos_token": START, "eos_token": END}}, 0),
        ({"config.json": {"bos_token_id": 1, "eos_token_id": 2}}, 0),
        ({"tokenizer_config.json": {"bos_token": "", "eos_token": END},
          "config.json": {"bos_token_id": 1}}, 1),
    ],
)  # fmt: skip
def test_fast_tokenizer_uses_the_valid_entry(files: Files, repairs: int, tmp_path: Path) -> None:
    make_fast(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    write(tmp_path, files)
    tokenizer, special = read_tokenizer(tmp_path)
    assert isinstance(tokenizer, FastTokenizer)
    assert (tokenizer.bos, tokenizer.eos) == (START, END)
    assert len(special.repairs) == repairs


@pytest.mark.parametrize(
    ("config_ids", "tokenizer_eos", "expected"),
    [
        ({2}, 2, {2}),
        ({2, 5}, 2, {2, 5}),
        ({1}, 2, {2}),  # folders of 2023 name the token that begins a text
        ({1, 2}, 2, {2}),
        (set(), 2, {2}),
        ({1}, None, {1}),  # no other id is known
        ({1}, 1, {1}),  # begins and ends with the same token
    ],
)
def test_ids_that_end_a_reply(
    config_ids: set[int], tokenizer_eos: int | None, expected: set[int]
) -> None:
    assert end_token_ids(frozenset(config_ids), tokenizer_eos, (1,)) == expected


def test_spm_alone_uses_its_own_special_tokens(tmp_path: Path) -> None:
    path = write_spm(tmp_path / "a.model", **LIKE_LLAMA)
    tokenizer = SpmTokenizer(path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.unk) == ("<s>", "</s>", "<unk>")
