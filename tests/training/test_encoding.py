"""Encoding of chats: labels, truncation, and the split of held-out examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.text.prompt_template import PromptTemplate, load_templates
from model.text.tokenizer import Tokenizer
from model.types import Message
from tests.tiny_model import TEMPLATE
from training.dataset import TrainingChat
from training.encoding import IGNORED, Encoder, Example, split_held_out

TEMPLATES = {
    **load_templates(CHECKOUT / "prompts"),
    "model": PromptTemplate("model", TEMPLATE),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(read_model_folder(tiny_folder))


def chat(*texts: str, line: int = 1) -> TrainingChat:
    roles = ("user", "assistant")
    return TrainingChat(line, tuple(Message(roles[i % 2], text) for i, text in enumerate(texts)))  # type: ignore[arg-type]


def encode(tokenizer: Tokenizer, chat: TrainingChat, cutoff: int = 500, **options: bool) -> Example:
    encoder = Encoder(TEMPLATES["model"], tokenizer, cutoff, **options)
    (example,), bad = encoder.encode([chat])
    assert not bad
    return example


def learned(tokenizer: Tokenizer, example: Example) -> str:
    """The text of the labels, with control tokens."""
    ids = [i for i in example.labels if i != IGNORED]
    return "".join(
        tokenizer.token_text(i) if tokenizer.is_control(i) else tokenizer.decode([i]) for i in ids
    )


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_labels_are_the_replies_and_the_tokens_that_end_them(
    name: str, tokenizer: Tokenizer
) -> None:
    encoder = Encoder(TEMPLATES[name], tokenizer, 500)
    (example,), _ = encoder.encode([chat("The fox", "jumps over.", "x", "the dog.")])
    assert learned(tokenizer, example) == "jumps over.<|im_end|>the dog.<|im_end|>"
    assert all(label in (i, IGNORED) for i, label in zip(example.ids, example.labels, strict=True))


def test_labels_are_all_tokens_with_train_on_inputs(tokenizer: Tokenizer) -> None:
    example = encode(tokenizer, chat("The fox", "jumps."), train_on_inputs=True)
    assert example.labels == example.ids


def test_a_long_chat_loses_its_last_turns(tokenizer: Tokenizer) -> None:
    short = encode(tokenizer, chat("The fox", "jumps."))
    long = encode(tokenizer, chat("The fox", "jumps.", "x = 1", "+ 2"), len(short.ids) + 3)
    assert (long.ids, long.labels, long.truncated) == (short.ids, short.labels, True)
    assert not short.truncated


def test_a_single_long_turn_loses_its_end(tokenizer: Tokenizer) -> None:
    full = encode(tokenizer, chat("The fox", "jumps over the lazy dog."))
    example = encode(tokenizer, chat("The fox", "jumps over the lazy dog."), len(full.ids) - 4)
    assert example.ids == full.ids[:-4]
    assert learned(tokenizer, example).startswith("jumps")
    assert "<|im_end|>" not in learned(tokenizer, example)


def test_a_question_longer_than_the_cutoff_is_a_bad_row(tokenizer: Tokenizer) -> None:
    encoder = Encoder(TEMPLATES["model"], tokenizer, 12)
    examples, (bad,) = encoder.encode([chat("x" * 50, "y", line=7)])
    assert not examples
    assert str(bad) == "line 7: its question alone is longer than 12 tokens (--cutoff_len)"


def test_a_huge_message_is_shortened_before_the_tokenizer_gets_it(tokenizer: Tokenizer) -> None:
    """The tokenizer needs gigabytes for a text of some megabytes."""
    lengths: list[int] = []

    class RecordingTokenizer:
        def __getattr__(self, name: str) -> object:
            return getattr(tokenizer, name)

        def encode(self, runs: list[object]) -> list[int]:
            lengths.append(sum(len(run.text) for run in runs))  # type: ignore[attr-defined]
            return tokenizer.encode(runs)  # type: ignore[arg-type]

    encoder = Encoder(TEMPLATES["model"], RecordingTokenizer(), 100)  # type: ignore[arg-type]
    (example,), _ = encoder.encode([chat("Hi", "ab" * 5_000_000)])
    assert example.truncated
    assert len(example.ids) == 100
    assert max(lengths) < 20_000
    assert example.ids == encode(tokenizer, chat("Hi", "ab" * 2000), 100).ids


def test_a_chat_that_the_template_refuses_is_a_bad_row(tokenizer: Tokenizer) -> None:
    strict = PromptTemplate("strict", "{{ raise_exception('users come first') }}")
    examples, (bad,) = Encoder(strict, tokenizer, 100).encode([chat("Hi", "a", line=3)])
    assert not examples
    assert "line 3" in str(bad)
    assert "users come first" in str(bad)


def numbered(*numbers: int) -> list[Example]:
    return [Example(chat("a", "b"), (n, n), (IGNORED, n)) for n in numbers]


def test_split_held_out_follows_the_seed_and_keeps_all_examples() -> None:
    examples = numbered(*range(50))
    remaining, held_out = split_held_out(examples, 5, seed=1)
    assert len(held_out) == 5
    assert sorted([*remaining, *held_out], key=lambda e: e.ids) == examples
    assert split_held_out(examples, 5, seed=1) == (remaining, held_out)
    assert split_held_out(examples, 5, seed=2)[1] != held_out
    assert split_held_out(examples, 0, seed=1) == (examples, [])


def test_split_held_out_never_learns_a_copy_of_a_held_out_example() -> None:
    examples = numbered(*[1, 2, 3, 4] * 10)
    remaining, held_out = split_held_out(examples, 1, seed=3)
    assert len(remaining) == 30
    assert held_out[0] not in remaining
