"""Encodes a chat for training: each reply that is learned follows the prompt that serving writes.

The replies of a chat share one sequence as long as the next prompt begins with it, as with ChatML.
Where it does not, the next reply begins a sequence of its own: templates that cut thoughts from
earlier replies, or write no end token behind them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from model.errors import RequestError
from model.text.prompt import decode_continuation, encode_chat, encode_reply
from model.text.prompt_template import PromptTemplate
from model.text.reply_format import ReplyFormat
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import Message


@dataclass(frozen=True)
class LearnedReply:
    """A reply in a sequence: the index of its message, and the places of its ids with their end."""

    message: int
    start: int
    stop: int


@dataclass
class TrainingSequence:
    """Token ids, and for each whether it is learned; the replies among them."""

    ids: list[int] = field(default_factory=list)
    learned: list[bool] = field(default_factory=list)
    replies: list[LearnedReply] = field(default_factory=list)

    def add(self, ids: Sequence[int], learned: bool) -> None:
        """Appends tokens."""
        self.ids += ids
        self.learned += [learned] * len(ids)


@dataclass(frozen=True)
class EncodedChat:
    """The sequences of a chat, each of at most `cutoff` tokens; `truncated` if some did not fit."""

    sequences: tuple[TrainingSequence, ...]
    truncated: bool


@dataclass(frozen=True)
class ChatEncoder:
    """Encodes chats for training with one template.

    Args:
        template: writes the prompts.
        tokenizer: encodes them.
        reply_format: how the template writes replies.
        end_ids: the tokens at which serving ends a reply.
        cutoff: tokens of a sequence, at most.
        train_on_inputs: whether prompts are learned, too.
    """

    template: PromptTemplate
    tokenizer: Tokenizer
    reply_format: ReplyFormat
    end_ids: frozenset[int]
    cutoff: int
    train_on_inputs: bool = False

    def encode(self, messages: Sequence[Message], unlearned: Collection[int] = ()) -> EncodedChat:
        """The sequences of a chat. A reply that does not fit is left out; the first one loses its
        end.

        Args:
            messages: the chat.
            unlearned: indices of replies that are not learned.

        Raises:
            RequestError: the template cannot render a part of the chat.
        """
        sequences = [TrainingSequence()]
        truncated = False
        for index, message in enumerate(messages):
            if message.role != "assistant" or index in unlearned:
                continue
            header = self.template.render(messages[:index], self.tokenizer)
            prompt = self.tokenizer.encode(header)
            reply = self._reply_ids(header, prompt, message.content)
            overflow = len(prompt) + len(reply) - self.cutoff
            if overflow > 0:
                truncated = True
                if len(prompt) >= self.cutoff or sequences[0].ids:
                    break
                reply = reply[:-overflow]
            self._add(sequences, prompt, reply, index)
        return EncodedChat(tuple(s for s in sequences if s.ids), truncated)

    def check(self, messages: Sequence[Message], encoded: EncodedChat) -> bool:
        """Compares an encoded chat with what serving does for the same messages.

        Returns:
            Whether each learned reply, served, is the text of its message. It is not if a reply is
            cut, or if the tokenizer cannot write its text.

        Raises:
            RequestError: the ids before a reply are not the prompt that serving writes, or the
                reply does not end with the one token at which serving ends it.
        """
        are_equal = True
        for sequence in encoded.sequences:
            for reply in sequence.replies:
                before = messages[: reply.message]
                prompt = encode_chat(before, self.template, self.tokenizer, sys.maxsize).ids
                ids = sequence.ids[reply.start : reply.stop]
                has_end = encoded.truncated or ids[-1] in self.end_ids
                if (
                    sequence.ids[: reply.start] != list(prompt)
                    or not has_end
                    or not self.end_ids.isdisjoint(ids[:-1])
                ):
                    raise RequestError("trained_differs_from_served", name=self.template.name)
                text = decode_continuation(prompt, ids[:-1], self.tokenizer)
                are_equal &= text == self.reply_format.learned(messages[reply.message].content)
        return are_equal

    def _reply_ids(self, header: list[TextSpan], prompt: list[int], reply: str) -> list[int]:
        """The ids of a reply after its prompt, with its end.

        Raises:
            RequestError: the tokenizer merges both.
        """
        text = self.reply_format.learned(reply)
        ids = encode_reply(header, prompt, text, self.tokenizer)
        if ids is None:
            raise RequestError("reply_merges_with_prompt", name=self.template.name)
        return [*ids, self.end_id]

    @cached_property
    def end_id(self) -> int:
        """The token that ends a reply: the template's own, if serving ends replies at it.

        Raises:
            RequestError: no token ends a reply.
        """
        candidates = (self.reply_format.end_id, self.tokenizer.eos_id, *sorted(self.end_ids))
        end = next((i for i in candidates if i is not None and i in self.end_ids), None)
        if end is None:
            raise RequestError("no_end_token")
        return end

    def _add(
        self, sequences: list[TrainingSequence], prompt: list[int], reply: list[int], message: int
    ) -> None:
        """Adds a prompt and its reply to the last sequence, or as a new one."""
        common = _common_prefix(sequences[-1].ids, prompt)
        if common < len(sequences[-1].ids):
            sequences.append(TrainingSequence())
            sequences[-1].add(prompt[:common], learned=False)
        last = sequences[-1]
        last.add(prompt[common:], learned=self.train_on_inputs)
        last.replies.append(LearnedReply(message, len(prompt), len(prompt) + len(reply)))
        last.add(reply, learned=True)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """The number of tokens with which both begin."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (left, right) in pairs if left != right), min(len(a), len(b)))
