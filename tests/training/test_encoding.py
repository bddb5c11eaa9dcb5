"""Encoding of chats: labels, truncation, and the split of held-out examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.text.prompt_template import PromptTemplate, load_templates
from model.text.tokenizer import Tokenizer
from model.types import Message
from tests.tiny_model import TEMPLATE
from training.dataset import Dataset, TrainingChat
from training.encoding import IGNORED, Encoder, Example, data_notes, fit_template, split_held_out
from training.parsing import Place

TEMPLATES = {
    **load_templates(CHECKOUT / "prompts"),
    "model": PromptTemplate("model", TEMPLATE),
}


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return load_tokenizer(read_model_folder(tiny_folder))


def encoder(
    tokenizer: Tokenizer, name: str = "model", cutoff: int = 500, **options: bool
) -> Encoder:
    end_ids = frozenset([tokenizer.eos_id])
    return Encoder(TEMPLATES[name], tokenizer, end_ids, cutoff, **options)  # type: ignore[arg-type]


def chat(*texts: str, line: int = 1) -> TrainingChat:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], text) for i, text in enumerate(texts))  # type: ignore[arg-type]
    return TrainingChat(Place(line), messages)


def encode(tokenizer: Tokenizer, chat: TrainingChat, cutoff: int = 500, **options: bool) -> Example:
    (example,), bad = encoder(tokenizer, "model", cutoff, **options).encode([chat])
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
    (example,), _ = encoder(tokenizer, name).encode(
        [chat("The fox", "jumps over.", "x", "the dog.")]
    )
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
    examples, (bad,) = encoder(tokenizer, cutoff=12).encode([chat("x" * 50, "y", line=7)])
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

    recording = encoder(RecordingTokenizer(), cutoff=100)  # type: ignore[arg-type]
    (example,), _ = recording.encode([chat("Hi", "ab" * 5_000_000)])
    assert example.truncated
    assert len(example.ids) == 100
    assert max(lengths) < 20_000
    assert example.ids == encode(tokenizer, chat("Hi", "ab" * 2000), 100).ids


def test_a_chat_that_the_template_refuses_is_a_bad_row(tokenizer: Tokenizer) -> None:
    strict = PromptTemplate("strict", "{{ raise_exception('users come first') }}")
    refusing = replace(encoder(tokenizer), template=strict)
    examples, (bad,) = refusing.encode([chat("Hi", "a", line=3)])
    assert not examples
    assert "line 3" in str(bad)
    assert "users come first" in str(bad)


OPENING = PromptTemplate(
    "opening",
    "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<think>\n{% endif %}",
)
THOUGHT = "<think>\nHm.\n</think>\n\nSo."


def test_template_opens_no_thought_if_no_reply_has_one(tokenizer: Tokenizer) -> None:
    plain = chat("Hi", "So.")
    fitted = fit_template(OPENING, tokenizer, [plain])
    assert not fitted.opens_thought
    opening = replace(encoder(tokenizer), template=fitted)
    (example,), _ = opening.encode([plain])
    assert learned(tokenizer, example) == "So.<|im_end|>"
    assert "<think>" not in tokenizer.decode(list(example.ids))
    (note,) = data_notes(Dataset((plain,), (), ""), [example], fitted)
    assert "written without it" in str(note)


def test_reply_without_the_thought_of_the_others_is_a_bad_row(tokenizer: Tokenizer) -> None:
    chats = [chat("Hi", THOUGHT), chat("Hi", "So.", line=2)]
    fitted = fit_template(OPENING, tokenizer, chats)
    assert fitted is OPENING
    (example,), (bad,) = replace(encoder(tokenizer), template=fitted).encode(chats)
    assert learned(tokenizer, example) == "Hm.\n</think>\n\nSo.<|im_end|>"
    assert str(bad).startswith("line 2: a reply has no <think>")


def test_sequences_of_an_example_begin_at_its_starts(tokenizer: Tokenizer) -> None:
    example = encode_with(tokenizer, "linly", chat("The fox", "jumps.", "x", "the dog."))
    first, second = example.starts
    assert first == 0
    one = encode_with(tokenizer, "linly", chat("The fox", "jumps."))
    assert (example.ids[:second], example.labels[:second]) == (one.ids, one.labels)


def test_reply_that_the_tokenizer_changes_is_noted(tokenizer: Tokenizer) -> None:
    examples = [replace(example, is_exact=False) for example in numbered(1, 2)]
    (note,) = data_notes(Dataset((), (), ""), examples, TEMPLATES["model"])
    assert str(note).endswith(": 2")


def encode_with(tokenizer: Tokenizer, name: str, one: TrainingChat) -> Example:
    (example,), _ = encoder(tokenizer, name).encode([one])
    return example


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
