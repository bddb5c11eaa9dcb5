"""Encodes chats with a template: prompts that fit the context, and the beginnings of replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.errors import LinlyError, PromptTooLongError
from model.text.detokenizer import CONTEXT_TOKENS, REPLACEMENT
from model.text.prompt_template import PromptTemplate, reply_spans
from model.text.tokenizer import TextSpan, Tokenizer
from model.translations import LocalizedText
from model.types import Message, TruncatedTurns

# Text to encode in front of another text, to get the ids that this has in the middle of a chat. At
# least one of them does not merge with it into one token.
ANCHORS = tuple([TextSpan(text, control=False)] for text in ("\n", "a", "."))


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, and the turns that were dropped to make it fit."""

    ids: tuple[int, ...]
    dropped: TruncatedTurns | None = None


def encode_chat(
    messages: Sequence[Message],
    template: PromptTemplate,
    tokenizer: Tokenizer,
    room: int,
    drop_oldest: bool = False,
    so_far: str = "",
) -> Prompt:
    """Renders a chat into at most `room` tokens, up to where its reply begins, with `so_far` after
    that: the reply's text as far as it is written already.

    With `drop_oldest`, turns are dropped, oldest first; never the system prompt, the last message
    or `so_far`. The ids of `so_far` are those that the model would have chosen for it, except where
    it wrote the same text in other tokens than the tokenizer does.

    Raises:
        PromptTooLongError: it does not fit, or even the question alone does not.
    """

    def encode(turns: Sequence[Message]) -> list[int]:
        header = template.render(turns, tokenizer)
        ids = tokenizer.encode(header)
        reply_ids = encode_reply(header, ids, so_far, tokenizer) if so_far else []
        if reply_ids is None:
            return tokenizer.encode([*header, *reply_spans(so_far)])
        return [*ids, *reply_ids]

    prompt = _fit(messages, encode, _later_questions(messages), room, drop_oldest)
    if prompt is None:
        last = [*_system(messages), messages[-1]]
        question_tokens = len(tokenizer.encode(template.render(last, tokenizer)))
        if question_tokens > room:
            raise _too_long("question_alone", question_tokens, room)
        raise _too_long("question_and_reply", len(encode(last)), room)
    return prompt


def encode_without_generation_prompt(
    messages: Sequence[Message],
    template: PromptTemplate,
    tokenizer: Tokenizer,
    room: int,
    drop_oldest: bool = False,
) -> Prompt:
    """Renders a chat up to its last reply, without asking for another: the next prompt begins so.

    With `drop_oldest`, turns are dropped as for the next question: the last one too, if it must be.

    Raises:
        PromptTooLongError: it does not fit, or even the system prompt alone does not.
    """

    def encode(turns: Sequence[Message]) -> list[int]:
        return tokenizer.encode(template.render(turns, tokenizer, False)) if turns else []

    starts = [*_later_questions(messages), len(messages)]
    prompt = _fit(messages, encode, starts, room, drop_oldest)
    if prompt is None:
        raise _too_long("system_prompt_alone", len(encode(_system(messages))), room)
    return prompt


def _fit(
    messages: Sequence[Message],
    encode: Callable[[Sequence[Message]], list[int]],
    starts: Sequence[int],
    room: int,
    drop_oldest: bool,
) -> Prompt | None:
    """The chat in at most `room` tokens: all of it, else from one of `starts` on, else None.

    Raises:
        PromptTooLongError: not all of it fits, and `drop_oldest` is not set.
    """
    all_ids = encode(messages)
    if len(all_ids) <= room:
        return Prompt(tuple(all_ids))
    if not drop_oldest:
        raise _too_long("whole_chat", len(all_ids), room)
    system = _system(messages)
    fit = _earliest_fit(starts, lambda start: encode([*system, *messages[start:]]), room)
    if fit is None:
        return None
    start, ids = fit
    return Prompt(tuple(ids), TruncatedTurns(start - len(system), len(all_ids) - len(ids)))


def _earliest_fit(
    starts: Sequence[int], encode_from: Callable[[int], list[int]], room: int
) -> tuple[int, list[int]] | None:
    """The earliest of `starts` from which on the chat fits, and its ids; None if none fits.

    Assumes that a chat with more turns has more tokens. If a template breaks that, the result still
    fits and the start before it does not, but one far before it may. Searches back from the end in
    steps that double, then bisects: the number of encodings is logarithmic, and of a long chat
    little more than what fits is encoded. The last start is tried last, because some templates
    cannot render a system prompt alone.
    """
    best: list[int] | None = None
    low, high, step = 0, len(starts) - 1, 1
    while low < high:  # before `low` nothing fits; from `high` on it does, unless that is the last
        middle = max(high - step, (low + high) // 2)
        ids = encode_from(starts[middle])
        if len(ids) <= room:
            best, high, step = ids, middle, step * 2
        else:
            low = middle + 1
    if best is None and starts:
        best = encode_from(starts[high])
    return (starts[high], best) if best is not None and len(best) <= room else None


def _system(messages: Sequence[Message]) -> list[Message]:
    """The system prompt, if there is one."""
    return [message for message in messages[:1] if message.role == "system"]


def _later_questions(messages: Sequence[Message]) -> list[int]:
    """The places where a shortened chat may begin: at the user messages after the first one."""
    first = len(_system(messages))
    return [i for i in range(first + 1, len(messages)) if messages[i].role == "user"]


def encode_reply(
    header: Sequence[TextSpan], ids: Sequence[int], reply: str, tokenizer: Tokenizer
) -> list[int] | None:
    """The ids of a reply's text after the spans `header`, whose own ids are `ids`.

    The model wrote the reply after the header's own ids. Encoding both as one text may merge the
    two where they meet; encoding the reply alone puts SentencePiece's space before it. So the ids
    to take are those that decode to the reply after the header's ids; if there are none, because
    the tokenizer changes some of the text, those that it has in the middle of a chat.

    Returns:
        None if one token always covers parts of both.
    """
    spans = reply_spans(reply)
    fallback: list[int] | None = None
    for before in (header, *ANCHORS):
        reply_ids = _encode_after(before, spans, tokenizer)
        if reply_ids is not None and decode_continuation(ids, reply_ids, tokenizer) == reply:
            return reply_ids
        fallback = reply_ids if fallback is None else fallback
    return fallback


def _encode_after(
    before: Sequence[TextSpan], spans: Sequence[TextSpan], tokenizer: Tokenizer
) -> list[int] | None:
    """The ids of `spans` when they follow `before`; None if one token covers parts of both."""
    ids, both = tokenizer.encode(before), tokenizer.encode([*before, *spans])
    return both[len(ids) :] if both[: len(ids)] == ids else None


def decode_continuation(before: Sequence[int], ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of `ids` when they follow the ids `before`."""
    context = decode_context(before, tokenizer)
    return tokenizer.decode([*context, *ids])[len(tokenizer.decode(context)) :]


def decode_context(ids: Sequence[int], tokenizer: Tokenizer) -> Sequence[int]:
    """The last few of `ids`, beginning with a complete character where that is possible.

    If one character is incomplete, some decoders decode all the bytes around it one by one.
    """
    last_ids = ids[-CONTEXT_TOKENS:]
    for start in range(len(last_ids)):
        if not tokenizer.decode(last_ids[start:]).startswith(REPLACEMENT):
            return last_ids[start:]
    return last_ids


def _too_long(what: str, tokens: int, room: int) -> LinlyError:
    return PromptTooLongError(
        "text_too_long_for_context", what=LocalizedText(what), tokens=tokens, room=room
    )
