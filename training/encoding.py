"""Encodes chats as token ids with labels, cut to a length, and splits off held-out examples."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

from model.errors import LinlyError
from model.text.prompt_template import PromptTemplate
from model.text.reply_format import find_reply_format, has_thought
from model.text.tokenizer import Tokenizer
from model.text.training_sequences import ChatEncoder
from model.translations import LocalizedText
from model.types import Message
from training.dataset import Dataset, TrainingChat
from training.parsing import BadRow

IGNORED = -100  # the label that torch's cross-entropy leaves out
MAX_TOKEN_CHARS = 64  # no token is longer, so text beyond the cutoff times this cannot matter


@dataclass(frozen=True)
class Example:
    """An encoded chat: one sequence of tokens, or several one after the other.

    `labels` are the `ids` of tokens to learn, and IGNORED at all other places. `starts` are the
    places where the sequences begin. `truncated`: the chat was too long and lost its end.
    `is_exact`: what is learned is the text of its replies, character by character.
    """

    chat: TrainingChat
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    starts: tuple[int, ...] = (0,)
    truncated: bool = False
    is_exact: bool = True


def fit_template(
    template: PromptTemplate, tokenizer: Tokenizer, chats: Sequence[TrainingChat]
) -> PromptTemplate:
    """The template for these chats: without the thought that it opens, if none of them has one."""
    if not find_reply_format(template, tokenizer).opened:
        return template
    replies = (chat.messages[i].content for chat in chats for i in chat.learned_replies)
    return template if any(map(has_thought, replies)) else replace(template, opens_thought=False)


def data_notes(
    dataset: Dataset, examples: Sequence[Example], template: PromptTemplate
) -> tuple[LocalizedText, ...]:
    """What the user should know of data that was encoded with `template`."""
    notes = [dataset.unread_keys()]
    if not template.opens_thought:
        notes.append(LocalizedText("thoughts_not_opened"))
    if changed := sum(not example.is_exact for example in examples):
        notes.append(LocalizedText("replies_changed", {"count": changed}))
    return tuple(filter(None, notes))


@dataclass(frozen=True)
class Encoder:
    """Encodes chats as examples, each sequence of at most `cutoff` tokens.

    `end_ids` are those at which serving ends a reply. With `train_on_inputs` all tokens are
    learned, else the replies and the tokens that end them.
    """

    template: PromptTemplate
    tokenizer: Tokenizer
    end_ids: frozenset[int]
    cutoff: int
    train_on_inputs: bool = False

    def encode(self, chats: Sequence[TrainingChat]) -> tuple[list[Example], list[BadRow]]:
        """The examples, and the rows that cannot be encoded as one."""
        chat_encoder = ChatEncoder(
            self.template, self.tokenizer, find_reply_format(self.template, self.tokenizer),
            self.end_ids, self.cutoff, self.train_on_inputs,
        )  # fmt: skip
        examples: list[Example] = []
        bad: list[BadRow] = []
        for chat in chats:
            result = self._to_example(chat, chat_encoder)
            if isinstance(result, Example):
                examples.append(result)
            else:
                bad.append(result)
        return examples, bad

    def _to_example(self, chat: TrainingChat, chat_encoder: ChatEncoder) -> Example | BadRow:
        shortened = tuple(map(self._shorten, chat.messages))
        opened = chat_encoder.reply_format.opened
        replies = [chat.messages[i].content for i in chat.learned_replies]
        if opened and not all(map(has_thought, replies)):
            return BadRow(chat.place, LocalizedText("reply_without_thought"))
        try:
            encoded = chat_encoder.encode(shortened, chat.unlearned)
            is_exact = chat_encoder.check(shortened, encoded)
        except LinlyError as error:  # the template refuses these messages
            return BadRow(chat.place, error.text)
        if not encoded.sequences:
            reason = LocalizedText("question_over_cutoff", {"cutoff": self.cutoff})
            return BadRow(chat.place, reason)
        sequences = encoded.sequences
        ids = tuple(chain.from_iterable(sequence.ids for sequence in sequences))
        learned = chain.from_iterable(sequence.learned for sequence in sequences)
        labels = tuple(i if learn else IGNORED for i, learn in zip(ids, learned, strict=True))
        starts = tuple(accumulate((len(s.ids) for s in sequences[:-1]), initial=0))
        truncated = encoded.truncated or shortened != chat.messages
        return Example(chat, ids, labels, starts, truncated, is_exact or truncated)

    def _shorten(self, message: Message) -> Message:
        """Drops text that is certainly beyond the cutoff: encoding it takes time and memory."""
        return replace(message, content=message.content[: self.cutoff * MAX_TOKEN_CHARS])


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
