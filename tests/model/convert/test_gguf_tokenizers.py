"""Byte-level tokenizers of GGUF files: text gets the ids that the model was trained with."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from model.__main__ import main
from model.convert.bpe_file import SPLIT_RULES
from model.convert.gguf import Metadata
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.text.tokenizer import TextSpan
from tests.model.convert.gguf_files import Vocabulary, write

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DEEPSEEK_CODER = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]
TEXTS = [
    "In 2024: 12345 and  1234567.", "IT'S DON'T don't", "\treturn x\n\treturn y", "a\n\n\nb",
    "Hello!!!\n\n", "你好，世界！ 3 4", "  two  spaces ", "Ünïcödé 👋",
]  # fmt: skip
LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
DEEPSEEK_SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>"]

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


def train(patterns: list[str], special: list[str]) -> Tokenizer:
    """A tokenizer that was trained with these rules on texts in which each of them matters."""
    made = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(TEXTS * 30, trainer)
    made.add_special_tokens(special)
    return made


def vocabulary_of(
    tokenizer: Tokenizer, special: list[str], pre: str | None, padding: int = 0
) -> Vocabulary:
    """Adds the vocabulary to a GGUF file, as llama.cpp's converter does."""
    ids = tokenizer.get_vocab(with_added_tokens=True)
    texts = sorted(ids, key=lambda text: ids[text])
    merges = json.loads(tokenizer.to_str())["model"]["merges"]

    def add(writer: Any) -> int:
        writer.add_tokenizer_model("gpt2")
        if pre is not None:
            writer.add_tokenizer_pre(pre)
        padded = [*texts, *(f"[PAD{number}]" for number in range(padding))]
        writer.add_token_list(padded)
        types = [3 if text in special else 1 for text in texts]
        writer.add_token_types([*types, *[5] * padding])
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_bos_token_id(ids[special[0]])
        writer.add_eos_token_id(ids[special[1]])
        return len(padded)

    return add


@pytest.mark.parametrize(
    ("pre", "patterns", "special"),
    [
        ("llama-bpe", [LLAMA3], LLAMA3_SPECIAL),
        ("llama-bpe", [LLAMA3], DEEPSEEK_SPECIAL),
        ("smaug-bpe", [LLAMA3], LLAMA3_SPECIAL),
        ("qwen2", [QWEN2], LLAMA3_SPECIAL),
        ("deepseek-coder", DEEPSEEK_CODER, DEEPSEEK_SPECIAL),
        ("smollm", [r"\p{N}", GPT2], LLAMA3_SPECIAL),
        ("gpt-2", [GPT2], LLAMA3_SPECIAL),
    ],
)
def test_text_gets_the_ids_of_the_original(
    pre: str, patterns: list[str], special: list[str], tmp_path: Path
) -> None:
    """transformers split text by GPT-2's rule where it did not know a name, and added a token
    <|endoftext|> where the vocabulary has none: then the model was refused."""
    original = train(patterns, special)
    write(tmp_path / "m.gguf", vocabulary_of(original, special, pre))
    assert main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "out")]) == 0
    tokenizer = load_tokenizer(read_model_folder(tmp_path / "out"))
    for text in TEXTS:
        ids = tokenizer.encode([TextSpan(text, control=False)])
        assert ids == original.encode(text).ids
        assert tokenizer.decode(ids) == text
    eos = original.token_to_id(special[1])
    assert tokenizer.encode([TextSpan(special[1], control=True)]) == [eos]
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (eos, original.get_vocab_size())


@pytest.mark.parametrize("pre", SPLIT_RULES)
def test_every_rule_can_be_used(pre: str, tmp_path: Path) -> None:
    """A pattern that Oniguruma cannot read, or that can take very long, is refused."""
    original = train([LLAMA3], LLAMA3_SPECIAL)
    write(tmp_path / "m.gguf", vocabulary_of(original, LLAMA3_SPECIAL, pre))
    assert main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "out")]) == 0
    tokenizer = load_tokenizer(read_model_folder(tmp_path / "out"))
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode([TextSpan(text, control=False)])) == normal(text)


def normal(text: str) -> str:
    return unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("pre", "text", "words"),
    [
        ("deepseek-llm", "Hi, Ωα 你好!12 ώ\n", ["Hi", ",", " Ωα", " ", "你好", "!", "1", "2",
                                                    " ώ", "\n"]),
        ("deepseek-v3", "Hi, 你好ア!1234\n", ["Hi", ",", " ", "你好ア", "!", "123", "4", "\n"]),
        ("tekken", "HelloWorld 12/\n", ["Hello", "World", " ", "1", "2", "/\n"]),
        ("llama-bpe", "I'LL 1234!\n\n", ["I", "'LL", " ", "123", "4", "!\n\n"]),
        ("smollm", " 12 a", [" ", "1", "2", " a"]),
    ],
)  # fmt: skip
def test_rule_splits_text_into_these_words(pre: str, text: str, words: list[str]) -> None:
    parts = [text]
    for pattern in SPLIT_RULES[pre].patterns:
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        parts = [word for part in parts for word, _ in split.pre_tokenize_str(part)]
    assert parts == words


@pytest.mark.parametrize("said", [None, True, False])
@pytest.mark.parametrize(("pre", "usual"), [("llama-bpe", True), ("smollm", False)])
def test_bos_is_written_where_the_file_or_the_rule_says_so(
    said: bool | None, pre: str, usual: bool, tmp_path: Path
) -> None:
    original = train([LLAMA3], LLAMA3_SPECIAL)
    extra = None if said is None else lambda writer: writer.add_add_bos_token(said)
    write(tmp_path / "m.gguf", vocabulary_of(original, LLAMA3_SPECIAL, pre), extra=extra)
    assert main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "out")]) == 0
    tokenizer = load_tokenizer(read_model_folder(tmp_path / "out"))
    bos = original.token_to_id(LLAMA3_SPECIAL[0])
    assert tokenizer.prefix_ids == ((bos,) if (usual if said is None else said) else ())


def test_rows_that_pad_the_embedding_get_no_token(tmp_path: Path) -> None:
    """So that the model cannot answer with them."""
    original = train([LLAMA3], LLAMA3_SPECIAL)
    padding = -original.get_vocab_size() % 64
    add = vocabulary_of(original, LLAMA3_SPECIAL, "llama-bpe", padding)
    write(tmp_path / "m.gguf", add)
    assert main(["convert", str(tmp_path / "m.gguf"), str(tmp_path / "out")]) == 0
    folder = read_model_folder(tmp_path / "out")
    assert load_tokenizer(folder).vocab_size == original.get_vocab_size()
    assert folder.config["vocab_size"] == original.get_vocab_size() + padding


@pytest.mark.parametrize("pre", [None, "default", "rule-of-tomorrow"])
def test_unknown_rule_is_refused_with_a_remedy_that_works(
    pre: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """GPT-2's rule was used silently: the model got other ids than in its training."""
    original = train([LLAMA3], LLAMA3_SPECIAL)
    source = str(write(tmp_path / "m.gguf", vocabulary_of(original, LLAMA3_SPECIAL, pre)))
    assert main(["convert", source, str(tmp_path / "out")]) == 1
    error_text = capsys.readouterr().err
    assert "tokenizer.ggml.pre" in error_text
    assert "--tokenizer tokenizer.json" in error_text
    original.save(str(tmp_path / "tokenizer.json"))
    option = ["--tokenizer", str(tmp_path / "tokenizer.json")]
    assert main(["convert", source, str(tmp_path / "out"), *option]) == 0
    tokenizer = load_tokenizer(read_model_folder(tmp_path / "out"))
    assert tokenizer.encode([TextSpan(TEXTS[0], control=False)]) == original.encode(TEXTS[0]).ids
    assert tokenizer.eos_id == original.token_to_id(LLAMA3_SPECIAL[1])


@pytest.mark.parametrize(
    ("change", "expected_text"),
    [
        (lambda fields: fields.pop("tokenizer.ggml.merges"), "tokenizer.ggml.merges"),
        (lambda fields: fields.pop("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens"),
        (lambda fields: fields["tokenizer.ggml.merges"].append("zz qq"), "zz"),
        (lambda fields: fields["tokenizer.ggml.merges"].append("no-space"), "m.gguf"),
        (lambda fields: fields["tokenizer.ggml.tokens"].__setitem__(9, "a"), "same text"),
        (lambda fields: fields["tokenizer.ggml.token_type"].pop(), "make no sense"),
        (lambda fields: fields.update({"tokenizer.ggml.model": "bert"}), "bert"),
    ],
)
def test_torn_vocabulary_is_reported_in_one_sentence(
    change: Any, expected_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    original = train([LLAMA3], LLAMA3_SPECIAL)
    source = write(tmp_path / "m.gguf", vocabulary_of(original, LLAMA3_SPECIAL, "llama-bpe"))
    names = ("model", "pre", "tokens", "token_type", "merges", "bos_token_id")
    file = Metadata(reader_of(source), source)
    fields = {f"tokenizer.ggml.{name}": file.get(f"tokenizer.ggml.{name}") for name in names}
    change(fields)
    get = Metadata.get

    def changed(self: Metadata, name: str, default: Any = None) -> Any:
        if not name.startswith("tokenizer.ggml."):
            return get(self, name, default)
        return fields.get(name, default)

    monkeypatch.setattr(Metadata, "get", changed)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 1
    error_text = capsys.readouterr().err
    assert expected_text in error_text
    assert "Traceback" not in error_text
    assert not (tmp_path / "out").exists()


def reader_of(source: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(source)
