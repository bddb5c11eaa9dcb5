"""Chats as token ids, with what is to be learned, cut to a length and split for validation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from model.text.prompt import PromptTemplate, encode_training
from model.text.tokenizer import Tokenizer
from model.translations import LocalizedText
from model.types import LinlyError, Message
from training.dataset import TrainingChat
from training.parsing import BadRow

IGNORED = -100  # the label that torch's cross-entropy leaves out
MAX_TOKEN_CHARS = 64  # of a token: text beyond this times the cutoff cannot count


@dataclass(frozen=True)
class Example:
    """One chat. `labels` is `ids` where something is to be learned, else IGNORED.

    `cut` tells that it was longer, and has lost its end.
    """

    chat: TrainingChat
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    cut: bool = False


@dataclass(frozen=True)
class Encoder:
    """How chats become examples of at most `cutoff` tokens.

    With `train_on_inputs` everything is learned, else the replies and what ends them.
    """

    template: PromptTemplate
    tokenizer: Tokenizer
    cutoff: int
    train_on_inputs: bool = False

    def encode(self, chats: Sequence[TrainingChat]) -> tuple[list[Example], list[BadRow]]:
        """The examples, and the rows that are none after all."""
        examples: list[Example] = []
        bad: list[BadRow] = []
        for chat in chats:
            made = self._example(chat)
            if isinstance(made, Example):
                examples.append(made)
            else:
                bad.append(made)
        return examples, bad

    def _example(self, chat: TrainingChat) -> Example | BadRow:
        shortened = tuple(map(self._shortened, chat.messages))
        try:
            example = self._fitting(replace(chat, messages=shortened))
        except LinlyError as error:  # the template refuses its messages
            return BadRow(chat.line, error.text)
        if not any(learned != IGNORED for learned in example.labels[1:]):
            reason = LocalizedText("question_over_cutoff", {"cutoff": self.cutoff})
            return BadRow(chat.line, reason)
        return replace(example, chat=chat, cut=example.cut or shortened != chat.messages)

    def _shortened(self, message: Message) -> Message:
        """What cannot count anyway is not worth a tokenizer's time and memory."""
        return replace(message, content=message.content[: self.cutoff * MAX_TOKEN_CHARS])

    def _fitting(self, chat: TrainingChat) -> Example:
        """Without its last turns where that is enough; else its end is cut off."""
        whole = self._encoded(chat)
        example = whole
        while len(example.ids) > self.cutoff and (fewer := _one_turn_less(example.chat)):
            example = self._encoded(fewer)
        ids, labels = example.ids[: self.cutoff], example.labels[: self.cutoff]
        return Example(chat, ids, labels, cut=len(whole.ids) > self.cutoff)

    def _encoded(self, chat: TrainingChat) -> Example:
        ids, learned = encode_training(chat.messages, self.template, self.tokenizer)
        keep = (flag or self.train_on_inputs for flag in learned)
        labels = (i if kept else IGNORED for i, kept in zip(ids, keep, strict=True))
        return Example(chat, tuple(ids), tuple(labels))


def _one_turn_less(chat: TrainingChat) -> TrainingChat | None:
    """The chat up to the reply before its last one; None if there is none."""
    replies = [i for i, message in enumerate(chat.messages) if message.role == "assistant"]
    return replace(chat, messages=chat.messages[: replies[-2] + 1]) if len(replies) > 1 else None


def split(
    examples: Sequence[Example], held_out: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """What is learned, and `held_out` of them to measure with, drawn by `seed`.

    An example that stands in the file twice is never on both sides.
    """
    drawn = sorted(random.Random(seed).sample(range(len(examples)), held_out))  # noqa: S311
    kept_apart = [examples[i] for i in drawn]
    seen = {example.ids for example in kept_apart}
    return [example for example in examples if example.ids not in seen], kept_apart
