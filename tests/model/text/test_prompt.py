"""Prompts: chats that fit the context, and the oldest turns dropped from those that do not."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence

import pytest

from model.errors import PromptTooLongError, RequestError
from model.text.fast_tokenizer import FastTokenizer
from model.text.prompt import Prompt, encode_chat, encode_without_generation_prompt
from model.text.prompt_template import PromptTemplate
from model.text.spm_tokenizer import SpmTokenizer
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import Message, TruncatedTurns
from tests.model.text.chats import CHATML, LLAMA_2, LONG, Letters, chat, template, text_of

# Chats that do not fit


def test_chat_that_just_fits_is_complete(templates: dict[str, PromptTemplate]) -> None:
    prompt = encode_chat(LONG, templates["linly"], Letters(), room=46, drop_oldest=True)
    assert len(prompt.ids) == 46
    assert prompt.dropped is None


@pytest.mark.parametrize(
    ("room", "turns_kept", "dropped"),
    [
        (45, ["2", "b", "3"], TruncatedTurns(2, 15)),
        (31, ["2", "b", "3"], TruncatedTurns(2, 15)),
        (30, ["3"], TruncatedTurns(4, 30)),
        (16, ["3"], TruncatedTurns(4, 30)),
    ],
)
def test_oldest_turns_are_dropped_first(
    room: int, turns_kept: list[str], dropped: TruncatedTurns, templates: dict[str, PromptTemplate]
) -> None:
    prompt = encode_chat(LONG, templates["linly"], Letters(), room, drop_oldest=True)
    assert Letters().decode(prompt.ids) == text_of(
        templates["linly"].render(chat(*turns_kept), Letters())
    )
    assert prompt.dropped == dropped


def test_system_prompt_stays_when_turns_are_dropped(templates: dict[str, PromptTemplate]) -> None:
    messages = [Message("system", "S"), *LONG]
    prompt = encode_chat(messages, templates["linly"], Letters(), room=20, drop_oldest=True)
    assert Letters().decode(prompt.ids) == "<s>S\nUser: 3\nBot: "
    assert prompt.dropped == TruncatedTurns(messages=4, tokens=30)


def test_dropped_counts_the_tokens_of_the_dropped_turns(fast: FastTokenizer) -> None:
    messages = chat("hello " * 20, "hi", "why?")
    full_prompt = encode_chat(messages, template(CHATML), fast, room=1000)
    prompt = encode_chat(
        messages, template(CHATML), fast, len(full_prompt.ids) - 1, drop_oldest=True
    )
    assert prompt.dropped == TruncatedTurns(2, len(full_prompt.ids) - len(prompt.ids))
    assert prompt.ids == encode_chat(chat("why?"), template(CHATML), fast, 1000).ids


def test_long_chat_is_refused_without_drop_oldest(templates: dict[str, PromptTemplate]) -> None:
    with pytest.raises(PromptTooLongError, match="46 tokens long, but only 45 fit"):
        encode_chat(LONG, templates["linly"], Letters(), room=45)


@pytest.mark.parametrize(
    ("messages", "tokens"),
    [(LONG, 16), ([Message("system", "S"), *LONG], 18), (chat("3"), 16)],
)
def test_question_that_is_too_long_alone_is_refused(
    messages: list[Message], tokens: int, templates: dict[str, PromptTemplate]
) -> None:
    with pytest.raises(PromptTooLongError, match=f"question alone is {tokens} tokens") as caught:
        encode_chat(messages, templates["linly"], Letters(), room=15, drop_oldest=True)
    assert "only 15 fit" in caught.value.message
    assert caught.value.code == "context_length_exceeded"


# Which turns are dropped, compared with a simple search

LONGER_FOR_ONE_QUESTION = (
    "{{ bos_token }}{% if messages | length == 1 %}{{ 'An example. ' * 9 }}{% endif %}"
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
)
WORDS = ("hello", "世界", "\n", "how?", "🙂")


class CountingLetters(Letters):
    """Records the lengths of what it encodes."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def encode(self, spans: Sequence[TextSpan]) -> list[int]:
        ids = super().encode(spans)
        self.lengths.append(len(ids))
        return ids


def fit_one_by_one(
    messages: list[Message],
    prompt_template: PromptTemplate,
    tokenizer: Tokenizer,
    room: int,
    answered: bool,
) -> Prompt | None:
    """The complete chat, else from the first question that fits; tries all of them in order."""

    def encode_turns(turns_kept: list[Message]) -> list[int]:
        return (
            tokenizer.encode(prompt_template.render(turns_kept, tokenizer, not answered))
            if turns_kept
            else []
        )

    full_prompt = encode_turns(messages)
    if len(full_prompt) <= room:
        return Prompt(tuple(full_prompt))
    system = [m for m in messages[:1] if m.role == "system"]
    for start in range(len(system) + 1, len(messages) + answered):
        if start == len(messages) or messages[start].role == "user":
            ids = encode_turns([*system, *messages[start:]])
            if len(ids) <= room:
                return Prompt(
                    tuple(ids), TruncatedTurns(start - len(system), len(full_prompt) - len(ids))
                )
    return None


def random_chat(rng: random.Random, answered: bool) -> list[Message]:
    """A chat of up to 12 questions: some long, some empty, some without an answer."""
    system = [Message("system", "Be kind.")] if rng.random() < 0.5 else []
    messages: list[Message] = []
    for _ in range(rng.randint(1, 12)):
        for role in ("user", "assistant") if rng.random() < 0.9 else ("user",):
            words = rng.choices(WORDS, k=rng.choice((0, 1, 3, 40)))
            messages.append(Message(role, " ".join(words)))
    return [*system, *messages] if answered else [*system, *messages, Message("user", "Why?")]


@pytest.mark.parametrize("answered", [False, True])
@pytest.mark.parametrize("name", ["linly", "alpaca", "chinese-alpaca", "chatml", "llama-2"])
@pytest.mark.parametrize("tokens", ["fast", "spm", "letters"])
def test_the_earliest_start_that_fits_is_found(
    tokens: str,
    name: str,
    answered: bool,
    fast: FastTokenizer,
    spm: SpmTokenizer,
    templates: dict[str, PromptTemplate],
) -> None:
    rng = random.Random(f"{tokens} {name} {answered}")  # noqa: S311
    tokenizers: dict[str, Tokenizer] = {"fast": fast, "spm": spm, "letters": Letters()}
    tokenizer = tokenizers[tokens]
    prompt_template = {"chatml": template(CHATML), "llama-2": template(LLAMA_2), **templates}[name]
    encode: Callable[..., Prompt] = encode_without_generation_prompt if answered else encode_chat
    for _ in range(40):
        messages, room = random_chat(rng, answered), rng.randint(5, 900)
        expected = fit_one_by_one(messages, prompt_template, tokenizer, room, answered)
        if expected is None:
            with pytest.raises(PromptTooLongError):
                encode(messages, prompt_template, tokenizer, room, drop_oldest=True)
        else:
            assert encode(messages, prompt_template, tokenizer, room, drop_oldest=True) == expected


@pytest.mark.parametrize("room", range(60, 110))
def test_prompt_fits_if_fewer_turns_take_more_tokens(room: int) -> None:
    """This template writes more text for a question alone than for three turns."""
    prompt_template = template(LONGER_FOR_ONE_QUESTION)
    prompt = encode_chat(LONG, prompt_template, Letters(), room, drop_oldest=True)
    assert len(prompt.ids) <= room
    assert prompt == fit_one_by_one(LONG, prompt_template, Letters(), room, answered=False)


@pytest.mark.parametrize("turns", [1, 2, 50, 1000])
@pytest.mark.parametrize("turns_kept", [1, 2, 40, 900])
def test_a_long_chat_is_encoded_a_few_times(
    turns: int, turns_kept: int, templates: dict[str, PromptTemplate]
) -> None:
    """It was encoded once for each dropped turn."""
    messages = chat(*"ab" * turns, "c")
    tokenizer, room = CountingLetters(), 16 + 15 * turns_kept
    encode_chat(messages, templates["linly"], tokenizer, room, drop_oldest=True)
    full_prompt, *tries = tokenizer.lengths
    assert full_prompt == 16 + 15 * turns
    assert len(tries) <= 2 * turns.bit_length() + 1
    assert max(tries, default=0) <= 3 * room


def test_system_prompt_alone_is_rendered_only_if_nothing_else_fits() -> None:
    """Some templates refuse a chat without a question."""
    refusal = "{% if messages | length == 1 %}{{ raise_exception('Ask.') }}{% endif %}"
    prompt_template = template(CHATML + refusal)
    messages = chat("Hi " * 50, "Hello.", "Why?", "So.", system="Be kind.")
    prompt = encode_without_generation_prompt(
        messages, prompt_template, Letters(), 150, drop_oldest=True
    )
    assert prompt.dropped is not None
    assert prompt.dropped.messages == 2
    with pytest.raises(RequestError, match="Ask"):
        encode_without_generation_prompt(messages, prompt_template, Letters(), 90, drop_oldest=True)


def count_calls(function: Callable[[], object]) -> int:
    """How many functions and generators are entered while `function` runs."""
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("name", ["chatml", "linly"])
def test_work_grows_with_the_turns_and_not_with_their_square(
    name: str, fast: FastTokenizer, spm: SpmTokenizer, templates: dict[str, PromptTemplate]
) -> None:
    prompt_template = template(CHATML) if name == "chatml" else templates[name]
    for tokenizer in (fast, spm):

        def encode(turns: int, tokenizer: Tokenizer = tokenizer) -> None:
            encode_chat(chat(*["hello"] * turns), prompt_template, tokenizer, room=10**6)

        encode(3)
        assert count_calls(lambda encode=encode: encode(801)) < 2.5 * count_calls(
            lambda encode=encode: encode(401)
        )
