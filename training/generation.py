"""Generates greedy replies of the base and of an adapter to the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.text.detokenizer import REPLACEMENT
from model.text.prompt import encode_chat
from model.text.prompt_template import PromptTemplate
from model.text.reply_format import ReplyStart, find_reply_format
from model.text.tokenizer import Tokenizer
from model.types import Message
from training.dataset import TrainingChat
from training.encoding import Example

MAX_TOKENS = 64
BATCH_SIZE = 8


@dataclass(frozen=True)
class Comparison:
    """Replies of base and adapter to a question; `wanted` is the reply in the data."""

    question: str
    wanted: str
    base: str
    adapter: str


@dataclass(frozen=True)
class GreedyGenerator:
    """Generates replies; `eos_ids` end them, as do the template's stop strings."""

    template: PromptTemplate
    tokenizer: Tokenizer
    eos_ids: frozenset[int]

    def replies(self, model: Any, chats: Sequence[Sequence[Message]]) -> list[str]:
        """A reply of `model` to the last message of each chat, of at most 64 tokens."""
        replies: list[str] = []
        for start in range(0, len(chats), BATCH_SIZE):
            replies += self._batch(model, chats[start : start + BATCH_SIZE])
        return replies

    def _batch(self, model: Any, chats: Sequence[Sequence[Message]]) -> list[str]:
        import torch

        max_prompt = model.config.max_position_embeddings - MAX_TOKENS
        prompts = [
            encode_chat(chat, self.template, self.tokenizer, max_prompt, drop_oldest=True).ids
            for chat in chats
        ]
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(ids)) + list(ids) for ids in prompts]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        device = model.device
        with torch.no_grad():
            output = model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=MAX_TOKENS, do_sample=False, num_beams=1, use_cache=True,
                eos_token_id=sorted(self.eos_ids) or None, pad_token_id=0,
            )  # fmt: skip
        return [self._text(ids) for ids in output[:, longest:].tolist()]

    def _text(self, ids: list[int]) -> str:
        end = next((i for i, token in enumerate(ids) if token in self.eos_ids), len(ids))
        text = self.tokenizer.decode([i for i in ids[:end] if i < self.tokenizer.vocab_size])
        for stop in self.template.stop:
            text = text.partition(stop)[0]
        text = ReplyStart(find_reply_format(self.template, self.tokenizer)).push(text)
        return text.rstrip(REPLACEMENT).strip()  # the last character may be incomplete


def compare_replies(
    model: Any, generator: GreedyGenerator, examples: Sequence[Example]
) -> list[Comparison]:
    """Replies to the question before each example's first learned reply, by `model` (base and
    adapter) and by its base."""
    chats = [_first_turn(example.chat) for example in examples]
    questions = [question for question, _ in chats]
    was_training = model.training
    model.eval()
    with model.disable_adapter():
        base = generator.replies(model, questions)
    adapted = generator.replies(model, questions)
    model.train(was_training)
    return [
        Comparison(question[-1].content, wanted, *replies)
        for (question, wanted), *replies in zip(chats, base, adapted, strict=True)
    ]


def _first_turn(chat: TrainingChat) -> tuple[tuple[Message, ...], str]:
    """The messages before the first reply that is learned, and that reply."""
    index = chat.learned_replies[0]
    return chat.messages[:index], chat.messages[index].content
