"""How a chat template writes replies: what its prompt begins of them, and what comes before them.

Training and serving share it, so that an adapter learns replies in just the place and the form in
which it is asked for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from model.errors import RequestError
from model.text.prompt_template import PromptTemplate, opened_thought
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import Message

THOUGHT = "<think>"
QUESTION, REPLY = "Hello", "Hi"
# Chats with one reply: some templates need a system prompt.
PROBES = (
    (Message("user", QUESTION), Message("assistant", f" {REPLY} ")),
    (Message("system", QUESTION), Message("user", QUESTION), Message("assistant", f" {REPLY} ")),
)


@dataclass(frozen=True)
class ReplyFormat:
    """How replies are written.

    `opened` is the beginning of a reply that the prompt has written already: the tag of a thought.
    `space` is white space before a reply, which the model writes and which is not part of its text.
    `trimmed`: without the white space around it. `end_id` is the control token that follows.
    """

    opened: str = ""
    space: str = ""
    trimmed: bool = False
    end_id: int | None = None

    def written(self, reply: str) -> str:
        """What the model has written after the prompt, for a reply's text so far."""
        return self.space + reply.removeprefix(self.opened)

    def learned(self, reply: str) -> str:
        """What the model is to write after the prompt, for a reply of training data."""
        text = reply.strip() if self.trimmed or self.opened else reply
        if has_thought(text) and not text.startswith(self.opened):
            text = self.opened + text.removeprefix(THOUGHT).lstrip("\n")
        return self.written(text)


PLAIN = ReplyFormat()  # of a prompt that no template has written


def has_thought(reply: str) -> bool:
    """Whether a reply begins with a thought."""
    return reply.lstrip().startswith(THOUGHT)


class ReplyStart:
    """Turns what the model writes first into the beginning of a reply's text.

    Args:
        reply_format: how the reply is written.
    """

    def __init__(self, reply_format: ReplyFormat) -> None:
        self._opened, self._space = reply_format.opened, reply_format.space

    def push(self, text: str) -> str:
        """The next text of the reply, from the next text of the model."""
        while text and text[:1] == self._space[:1]:
            text, self._space = text[1:], self._space[1:]
        if not text:
            return ""
        text, self._opened, self._space = self._opened + text, "", ""
        return text


@lru_cache(maxsize=32)
def find_reply_format(template: PromptTemplate, tokenizer: Tokenizer) -> ReplyFormat:
    """Finds out how `template` writes replies, with a probe chat."""
    for *before, reply in PROBES:
        try:
            prompt = template.render(before, tokenizer)
            full = template.render([*before, reply], tokenizer, reply_follows=False)
        except RequestError:
            continue
        return _compare(prompt, full, len(before), tokenizer)
    return ReplyFormat()


def _compare(
    prompt: list[TextSpan], full: list[TextSpan], reply: int, tokenizer: Tokenizer
) -> ReplyFormat:
    """The format, from a rendered prompt and the same chat with the message number `reply`."""
    opened = opened_thought(prompt)
    places = [i for i, span in enumerate(full) if span.message == reply]
    if not places:
        return ReplyFormat(opened)
    text = _text(full[places[0] : places[-1] + 1])
    space = _text(full[: places[0]]).removeprefix(_text(prompt))
    return ReplyFormat(
        opened,
        space if space.isspace() else "",
        text == text.strip(),
        _end_id(full[places[-1] + 1 :], tokenizer),
    )


def _end_id(after: list[TextSpan], tokenizer: Tokenizer) -> int | None:
    """The control token that comes after a reply, and after white space at most."""
    ids = tokenizer.encode(after)
    index = next((i for i, token in enumerate(ids) if tokenizer.is_control(token)), None)
    if index is None or tokenizer.decode(ids[:index]).strip():
        return None
    return ids[index]


def _text(spans: list[TextSpan]) -> str:
    return "".join(span.text for span in spans)
