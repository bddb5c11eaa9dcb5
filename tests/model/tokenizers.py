"""Small tokenizers for the tests, which take no time to make, and texts for them."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceTrainer

from model.text.detokenizer import IncrementalDetokenizer
from model.text.fast_tokenizer import FastTokenizer
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer import TextSpan, Tokenizer
from tests.tiny_model import CONTROL, write_tokenizer

START, END = CONTROL[1:]
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "你好，世界！今天天气很好。",
    "User: hello\nBot: hi there, how are you?",
    "x = 1 + 2",
]
FAMILY = "👨‍👩‍👧‍👦"
ORDINARY = [
    "",
    "a",
    "Hello, world!",
    "  two  spaces ",
    "tab\tnew\nline\n\n",
    "你好，世界！",
    f"emoji 🙂 and {FAMILY}.",
    "a < b and c > d | e </ s> <s <|im",
    "naïve café, İstanbul, ﬁne",
]
# How LLaMA's tokenizer.model was trained.
LIKE_LLAMA: dict[str, Any] = {
    "model_type": "bpe",
    "vocab_size": 360,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "split_digits": True,
}
LIKE_T5 = {"model_type": "unigram", "vocab_size": 70, "hard_vocab_limit": False}
TORN = "\ufffd"  # the character for bytes that are no UTF-8


def typed(text: str) -> TextSpan:
    """A text that a user typed."""
    return TextSpan(text, control=False)


def make_fast(folder: Path) -> FastTokenizer:
    """Byte-level BPE with ChatML's control tokens."""
    write_tokenizer(folder)
    return FastTokenizer(folder / "tokenizer.json", START, END)


def write_spm(path: Path, **options: Any) -> Path:
    """Trains a SentencePiece model and writes it to `path`."""
    model = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        character_coverage=1.0,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return path


def make_spm(folder: Path, **options: Any) -> SpmTokenizer:
    return SpmTokenizer(write_spm(folder / "tokenizer.model", **(options or LIKE_LLAMA)))


def stream(tokenizer: Tokenizer, ids: list[int], prompt_ids: list[int] | None = None) -> list[str]:
    """The text that each token returns, and as the last entry that of the end."""
    detokenizer = IncrementalDetokenizer(tokenizer.decode, tokenizer.token_bytes, prompt_ids or [])
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.flush()]
