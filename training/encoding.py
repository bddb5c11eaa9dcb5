"""Encodes chats as token ids with labels, cut to a length, and splits off held-out examples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.errors import LinlyError
from model.text.prompt import encode_training
from model.text.prompt_template import PromptTemplate
from model.text.tokenizer import Tokenizer
from model.translations import LocalizedText
from model.types import Message
from training.dataset import TrainingChat
from training.parsing import BadRow

IGNORED = -100  # the label that torch's cross-entropy leaves out
MAX_TOKEN_CHARS = 64  # no token is longer, so text beyond the cutoff times this cannot matter


@dataclass(frozen=True)
class Example:
    """An encoded chat. `labels` are the `ids` of tokens to learn, and IGNORED at all other places.

    `truncated`: the chat was too long and lost its end.
    """

    chat: TrainingChat
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    truncated: bool = False


@dataclass(frozen=True)
class Encoder:
    """Encodes chats as examples of at most `cutoff` tokens.

    With `train_on_inputs` all tokens are learned, else the replies and the tokens that end them.
    """

    template: PromptTemplate
    tokenizer: Tokenizer
    cutoff: int
    train_on_inputs: bool = False

    def encode(self, chats: Sequence[TrainingChat]) -> tuple[list[Example], list[BadRow]]:
        """The examples, and the rows that cannot be encoded as one."""
        examples: list[Example] = []
        bad: list[BadRow] = []
        for chat in chats:
            result = self._to_example(chat)
            if isinstance(result, Example):
                examples.append(result)
            else:
                bad.append(result)
        return examples, bad

    def _to_example(self, chat: TrainingChat) -> Example | BadRow:
        shortened = tuple(map(self._shorten, chat.messages))
        try:
            example = self._fit_to_cutoff(replace(chat, messages=shortened))
        except LinlyError as error:  # the template refuses these messages
            return BadRow(chat.line, error.text)
        if all(label == IGNORED for label in example.labels[1:]):
            reason = LocalizedText("question_over_cutoff", {"cutoff": self.cutoff})
            return BadRow(chat.line, reason)
        truncated = example.truncated or shortened != chat.messages
        return replace(example, chat=chat, truncated=truncated)

    def _shorten(self, message: Message) -> Message:
        """Drops text that is certainly beyond the cutoff: encoding it takes time and memory."""
        return replace(message, content=message.content[: self.cutoff * MAX_TOKEN_CHARS])

    def _fit_to_cutoff(self, chat: TrainingChat) -> Example:
        """Drops the last turns of a long chat; a single long turn loses its end."""
        full = self._encode_chat(chat)
        example = full
        while len(example.ids) > self.cutoff and (shorter := _without_last_turn(example.chat)):
            example = self._encode_chat(shorter)
        ids, labels = example.ids[: self.cutoff], example.labels[: self.cutoff]
        return Example(chat, ids, labels, truncated=len(full.ids) > self.cutoff)

    def _encode_chat(self, chat: TrainingChat) -> Example:
        ids, is_reply = encode_training(chat.messages, self.template, self.tokenizer)
        learned = (flag or self.train_on_inputs for flag in is_reply)
        labels = (i if learn else IGNORED for i, learn in zip(ids, learned, strict=True))
        return Example(chat, tuple(ids), tuple(labels))


def _without_last_turn(chat: TrainingChat) -> TrainingChat | None:
    """The chat up to its last but one reply; None if it has only one."""
    replies = [i for i, message in enumerate(chat.messages) if message.role == "assistant"]
    return replace(chat, messages=chat.messages[: replies[-2] + 1]) if len(replies) > 1 else None


def split_held_out(
    examples: Sequence[Example], held_out: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """The examples to learn, and `held_out` examples to evaluate with, drawn with `seed`.

    An example that is in the file twice is never in both lists.
    """
    drawn = sorted(random.Random(seed).sample(range(len(examples)), held_out))  # noqa: S311
    evaluated = [examples[i] for i in drawn]
    evaluated_ids = {example.ids for example in evaluated}
    return [example for example in examples if example.ids not in evaluated_ids], evaluated
