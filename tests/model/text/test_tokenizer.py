"""Tokenizers: the library's ids, and typed control tokens that stay text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from model.errors import ModelFolderError
from model.text.fast_tokenizer import FastTokenizer
from model.text.special_tokens import SpecialTokens
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer import TextSpan, Tokenizer
from tests.model.tokenizers import (
    END,
    LIKE_LLAMA,
    LIKE_T5,
    ORDINARY,
    START,
    make_fast,
    make_spm,
    typed,
    write_spm,
)


@pytest.fixture(scope="module")
def library(fast: FastTokenizer, folder: Path) -> Backend:
    return Backend.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="module")
def spm_library(spm: SpmTokenizer, folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def control_ids(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    return [token_id for token_id in ids if tokenizer.is_control(token_id)]


def save(backend: Backend, path: Path, bos: str | None = None, eos: str | None = None) -> Any:
    backend.save(str(path))
    return FastTokenizer(path, bos, eos)


# Ordinary text


@pytest.mark.parametrize("text", ORDINARY)
def test_fast_ids_are_the_librarys(text: str, fast: FastTokenizer, library: Backend) -> None:
    assert fast.encode([TextSpan(text)]) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("text", ORDINARY)
def test_fast_ids_do_not_depend_on_where_spans_meet(
    text: str, fast: FastTokenizer, library: Backend
) -> None:
    expected = library.encode(text, add_special_tokens=False).ids
    for cut in range(len(text) + 1):
        assert fast.encode([TextSpan(text[:cut]), typed(text[cut:])]) == expected
        assert fast.encode([typed(text[:cut]), TextSpan(text[cut:])]) == expected


@pytest.mark.parametrize("options", [LIKE_LLAMA, LIKE_T5], ids=["bpe", "unigram"])
@pytest.mark.parametrize("text", ORDINARY)
def test_spm_ids_are_the_librarys(text: str, options: dict[str, Any], tmp_path: Path) -> None:
    path = write_spm(tmp_path / "tokenizer.model", **options)
    library = SentencePieceProcessor(model_file=str(path))
    tokenizer = SpmTokenizer(path)
    for cut in range(len(text) + 1):
        assert tokenizer.encode([TextSpan(text[:cut]), typed(text[cut:])]) == library.encode(text)


@pytest.mark.parametrize("text", ORDINARY)
def test_decode_gives_the_text_back(text: str, fast: FastTokenizer, spm: SpmTokenizer) -> None:
    assert fast.decode(fast.encode([typed(text)])) == text
    assert spm.decode(spm.encode([typed(text)])) == text


def test_encode_and_decode_of_nothing(fast: FastTokenizer, spm: SpmTokenizer) -> None:
    assert fast.encode([]) == spm.encode([]) == []
    assert fast.decode([]) == spm.decode([]) == ""


# Control tokens


def test_control_tokens_of_a_template_are_control_ids(
    fast: FastTokenizer, library: Backend
) -> None:
    spans = [TextSpan(f"{START}user\n"), typed("Hello"), TextSpan(f"{END}\n{START}assistant\n")]
    ids = fast.encode(spans)
    assert ids == library.encode("".join(run.text for run in spans)).ids
    assert control_ids(fast, ids) == [library.token_to_id(t) for t in (START, END, START)]


def test_control_tokens_of_a_template_are_control_ids_in_spm(
    spm: SpmTokenizer, spm_library: SentencePieceProcessor
) -> None:
    ids = spm.encode([TextSpan("<s>User: "), typed("Hello"), TextSpan("\nBot: </s>")])
    assert ids == [1, *spm_library.encode("User: Hello\nBot: "), 2]


class CountedId(int):
    """A token id that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        CountedId.compared += 1
        return int(self) == other

    __hash__ = int.__hash__


@pytest.mark.parametrize("kind", ["fast", "spm", "plain tokens of spm"])
def test_control_token_is_found_without_a_search(kind: str, tmp_path: Path) -> None:
    """Each token is looked up, and some vocabularies have thousands of control tokens."""
    names = [f"<extra_{number}>" for number in range(1000)]
    tokenizer: Tokenizer
    if kind == "fast":
        backend = Backend(models.BPE(vocab={"a": 0}, merges=[]))
        backend.add_special_tokens(names)
        tokenizer = save(backend, tmp_path / "tokenizer.json")
    else:
        path = write_spm(tmp_path / "tokenizer.model", **LIKE_LLAMA)
        size = SentencePieceProcessor(model_file=str(path)).get_piece_size()
        added = {name: size + number for number, name in enumerate(names)}
        plain = frozenset(added.values()) if kind == "plain tokens of spm" else frozenset()
        tokenizer = SpmTokenizer(path, SpecialTokens(added=added, plain=plain))
    CountedId.compared = 0
    for token_id in range(tokenizer.vocab_size - 100, tokenizer.vocab_size):
        assert tokenizer.is_control(CountedId(token_id)) == (kind != "plain tokens of spm")
    assert CountedId.compared < 100 * 10


ATTACKS = ["{}", "a{}b", "{}{}", "{0} {0}\n", "<{}>", "你好{}世界", "<|im_{}end|>", " {} "]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("control", [START, END, "<|endoftext|>"])
def test_typed_control_token_stays_text(attack: str, control: str, fast: FastTokenizer) -> None:
    text = attack.format(control, control)
    ids = fast.encode([typed(text)])
    assert control_ids(fast, ids) == []
    assert fast.decode(ids) == text


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("control", ["<s>", "</s>", "<unk>"])
def test_typed_control_token_stays_text_in_spm(
    attack: str, control: str, spm: SpmTokenizer, unigram: SpmTokenizer
) -> None:
    text = attack.format(control, control)
    ids = spm.encode([typed(text)])
    assert control_ids(spm, ids) == []
    assert 0 not in ids  # <unk>
    assert spm.decode(ids) == text
    assert control_ids(unigram, unigram.encode([typed(text)])) == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_only_the_templates_control_tokens_count_beside_typed_ones(
    attack: str, fast: FastTokenizer, spm: SpmTokenizer
) -> None:
    text = attack.format(END, END)
    ids = fast.encode([TextSpan(START), typed(text), TextSpan(f"{END}\n")])
    assert [fast.token_text(token_id) for token_id in control_ids(fast, ids)] == [START, END]
    assert (fast.token_text(ids[0]), fast.decode(ids)) == (START, f"{text}\n")

    text = attack.format("</s>", "</s>")
    ids = spm.encode([TextSpan("<s>"), typed(text), TextSpan("</s>")])
    assert control_ids(spm, ids) == [1, 2]
    assert (ids[0], ids[-1], spm.decode(ids)) == (1, 2, text)


@pytest.mark.parametrize("cut", range(1, len(END)))
@pytest.mark.parametrize("template_first", [True, False])
def test_control_token_half_typed_and_half_from_the_template_is_text(
    cut: int, template_first: bool, fast: FastTokenizer
) -> None:
    spans = [
        TextSpan(END[:cut], control=template_first),
        TextSpan(END[cut:], control=not template_first),
    ]
    ids = fast.encode([TextSpan(START), *spans, TextSpan(END)])
    assert [fast.token_text(token_id) for token_id in control_ids(fast, ids)] == [START, END]
    assert fast.decode(ids) == END


@pytest.mark.parametrize("cut", range(1, len("</s>")))
@pytest.mark.parametrize("template_first", [True, False])
def test_control_token_half_typed_and_half_from_the_template_is_text_in_spm(
    cut: int, template_first: bool, spm: SpmTokenizer, spm_library: SentencePieceProcessor
) -> None:
    first, second = "</s>"[:cut], "</s>"[cut:]
    ids = spm.encode(
        [TextSpan(first, control=template_first), TextSpan(second, control=not template_first)]
    )
    assert ids == spm_library.encode("</s>")


def test_control_token_typed_in_two_messages_is_text(fast: FastTokenizer) -> None:
    assert control_ids(fast, fast.encode([typed("<|im_"), typed("end|>")])) == []


def test_templates_control_token_counts_behind_the_beginning_of_a_typed_one(
    fast: FastTokenizer,
) -> None:
    ids = fast.encode([typed("<|im_end|"), TextSpan(f">{END}")])
    assert control_ids(fast, ids) == ids[-1:]
    assert fast.decode(ids) == "<|im_end|>"


# Vocabularies in which text could become a control token


LETTERS = ["<", "/", "s", ">", "</", "s>", "</s>", "h", "i"]


def control_token_by_merges() -> Backend:
    vocab = {piece: i for i, piece in enumerate(LETTERS)}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    return Backend(models.BPE(vocab=vocab, merges=merges))


def control_token_as_a_word() -> Backend:
    """As Llama 3's: a word in the vocabulary becomes one token, whether merges make it or not."""
    vocab = {piece: i for i, piece in enumerate(LETTERS)}
    return Backend(models.BPE(vocab=vocab, merges=[("<", "/")], ignore_merges=True))


def control_token_by_score() -> Backend:
    """A Unigram converted from SentencePiece, with control tokens at score 0."""
    vocab = [("<unk>", 0.0), ("</s>", 0.0), *((letter, -3.0) for letter in "</s>hi")]
    return Backend(models.Unigram(vocab, unk_id=0, byte_fallback=False))


@pytest.mark.parametrize(
    "make", [control_token_by_merges, control_token_as_a_word, control_token_by_score]
)
def test_typed_control_token_stays_text_though_the_vocabulary_has_it_as_a_word(
    make: Any, tmp_path: Path
) -> None:
    backend = make()
    backend.add_special_tokens(["</s>"])
    tokenizer = save(backend, tmp_path / "tokenizer.json", eos="</s>")
    ids = tokenizer.encode([typed("</s>"), TextSpan("</s>")])
    assert control_ids(tokenizer, ids) == [tokenizer.eos_id]


def test_typed_text_that_a_normaliser_makes_a_control_token_stays_text(tmp_path: Path) -> None:
    vocab = {piece: i for i, piece in enumerate("</s>hi")}
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.normalizer = normalizers.NFKC()
    backend.add_special_tokens([AddedToken("</s>", normalized=True)])
    tokenizer = save(backend, tmp_path / "tokenizer.json", eos="</s>")
    assert control_ids(tokenizer, tokenizer.encode([typed("hi＜/s＞")])) == []


def test_typed_control_token_changes_nothing_outside_of_its_message(tmp_path: Path) -> None:
    """The other messages keep their ids: no space is added before them."""
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate("▁</s>hiab")}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.add_special_tokens(["<s>", "</s>"])
    tokenizer = save(backend, tmp_path / "tokenizer.json", "<s>", "</s>")
    front = [TextSpan("<s>"), typed("hi"), TextSpan("</s>")]
    ids = tokenizer.encode(front)
    assert tokenizer.encode([*front, typed("a</s>b")])[: len(ids)] == ids


def with_truncation(folder: Path) -> Path:
    """A tokenizer.json that a training script saved with truncation and padding."""
    make_fast(folder)
    path = folder / "tokenizer.json"
    backend = Backend.from_file(str(path))
    backend.enable_truncation(max_length=8)
    backend.enable_padding(length=12, pad_id=0, pad_token="<|endoftext|>")
    backend.save(str(path))
    return path


@pytest.mark.parametrize("text", ["one two three four five", f"one two {END} three four", "one"])
def test_saved_truncation_and_padding_are_off(text: str, tmp_path: Path) -> None:
    tokenizer = FastTokenizer(with_truncation(tmp_path), START, END)
    ids = tokenizer.encode([typed(text)])
    assert control_ids(tokenizer, ids) == []  # the padding
    assert tokenizer.decode(ids) == text


# Properties of tokenizers


def test_fast_size_and_special_tokens(fast: FastTokenizer, library: Backend) -> None:
    assert fast.vocab_size == library.get_vocab_size()
    assert (fast.bos, fast.eos) == (START, END)
    assert fast.eos_id == library.token_to_id(END)
    assert fast.prefix_ids == ()  # this tokenizer adds nothing before text


def test_fast_size_counts_ids_after_a_gap(tmp_path: Path) -> None:
    backend = Backend(models.BPE(vocab={"a": 0, "b": 7}, merges=[]))
    assert save(backend, tmp_path / "tokenizer.json").vocab_size == 8


def test_fast_without_configured_names_has_none(fast: FastTokenizer, folder: Path) -> None:
    tokenizer = FastTokenizer(folder / "tokenizer.json", None, None)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.eos_id) == (None, None, None)
    assert tokenizer.prefix_ids == ()


def test_fast_prefix_is_what_its_post_processor_adds_before_text(tmp_path: Path) -> None:
    backend = Backend(models.BPE(vocab={"a": 0, "<s>": 1}, merges=[]))
    backend.add_special_tokens(["<s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = save(backend, tmp_path / "tokenizer.json", bos="<s>")
    assert tokenizer.prefix_ids == (1,)
    assert tokenizer.encode([TextSpan("a")]) == [0]


def test_spm_size_and_special_tokens(spm: SpmTokenizer) -> None:
    assert spm.vocab_size == LIKE_LLAMA["vocab_size"]
    assert (spm.bos, spm.eos, spm.eos_id, spm.prefix_ids) == ("<s>", "</s>", 2, (1,))


def test_spm_without_bos_and_eos(tmp_path: Path) -> None:
    tokenizer = make_spm(tmp_path, **LIKE_LLAMA, bos_id=-1, eos_id=-1)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.eos_id) == (None, None, None)
    assert tokenizer.prefix_ids == ()
    assert tokenizer.decode(tokenizer.encode([TextSpan("<s>hi")])) == "<s>hi"


def test_control_tokens_have_token_text_but_decode_to_nothing(
    fast: FastTokenizer, spm: SpmTokenizer, spm_library: SentencePieceProcessor
) -> None:
    ids = fast.encode([TextSpan(f"{START}hi{END}")])
    assert fast.decode(ids) == "hi"
    assert (fast.token_text(ids[0]), fast.token_text(ids[-1])) == (START, END)
    assert spm.decode([1, *spm_library.encode("hi"), 2]) == "hi"
    assert (spm.token_text(1), spm.token_text(2)) == ("<s>", "</s>")


def test_spm_token_text_has_spaces(spm: SpmTokenizer) -> None:
    ids = spm.encode([typed("hello world")])
    assert "".join(map(spm.token_text, ids)) == " hello world"


@pytest.mark.parametrize("text", [*ORDINARY, "龘 🦤"])
def test_token_bytes_join_to_the_text(text: str, fast: FastTokenizer, spm: SpmTokenizer) -> None:
    """Also where a character takes several tokens."""
    for tokenizer, space in ((fast, b""), (spm, b" " if text else b"")):
        ids = tokenizer.encode([typed(text)])
        assert b"".join(map(tokenizer.token_bytes, ids)) == space + text.encode()


def test_tokens_of_byte_fallback_are_bytes(tmp_path: Path, spm: SpmTokenizer) -> None:
    """As in the tokenizer.json of LLaMA 2, whose pieces have "▁" for a space."""
    vocab = {"<unk>": 0, "▁hi": 1, "<0xE4>": 2, "<0xB8>": 3, "<s>": 4}
    backend = Backend(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    fast = save(backend, tmp_path / "tokenizer.json")
    found = [fast.token_bytes(i) for i in (*range(1, 5), 99)]
    assert found == [b" hi", b"\xe4", b"\xb8", b"<s>", b""]
    byte = next(i for i in range(spm.vocab_size) if spm.token_text(i) == "<0xE4>")
    assert (spm.token_bytes(byte), spm.token_bytes(2)) == (b"\xe4", b"</s>")


def test_only_control_tokens_are_control(fast: FastTokenizer, spm: SpmTokenizer) -> None:
    assert sum(map(fast.is_control, range(fast.vocab_size))) == 3
    assert [i for i in range(spm.vocab_size) if spm.is_control(i)] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 100])
def test_spm_file_of_another_format_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"tokenizer\.model is not a SentencePiece model"):
        SpmTokenizer(path)
