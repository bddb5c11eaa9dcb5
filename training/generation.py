"""Greedy replies of the base and of an adapter to the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from model.text.prompt import PromptTemplate, encode_chat
from model.text.tokenizer import REPLACEMENT, Tokenizer
from model.types import Message
from training.encoding import Example

MAX_TOKENS = 64
BATCH = 8


@dataclass(frozen=True)
class Comparison:
    """A question with what base and adapter say to it. `wanted` is what the data says."""

    question: str
    wanted: str
    base: str
    adapter: str


@dataclass(frozen=True)
class GreedyGenerator:
    """How a model is talked to. `eos_ids` end its replies, beside the template's stop strings."""

    template: PromptTemplate
    tokenizer: Tokenizer
    eos_ids: frozenset[int]

    def replies(self, model: Any, chats: Sequence[Sequence[Message]]) -> list[str]:
        """What `model` says to the last message of each chat, at most 64 tokens."""
        said: list[str] = []
        for start in range(0, len(chats), BATCH):
            said += self._batch(model, chats[start : start + BATCH])
        return said

    def _batch(self, model: Any, chats: Sequence[Sequence[Message]]) -> list[str]:
        import torch

        room = model.config.max_position_embeddings - MAX_TOKENS
        prompts = [
            encode_chat(chat, self.template, self.tokenizer, room, drop_oldest=True).ids
            for chat in chats
        ]
        longest = max(map(len, prompts))
        padded = [[0] * (longest - len(ids)) + list(ids) for ids in prompts]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]
        device = model.device
        with torch.no_grad():
            made = model.generate(
                input_ids=torch.tensor(padded, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=MAX_TOKENS, do_sample=False, num_beams=1, use_cache=True,
                eos_token_id=sorted(self.eos_ids) or None, pad_token_id=0,
            )  # fmt: skip
        return [self._text(ids) for ids in made[:, longest:].tolist()]

    def _text(self, ids: list[int]) -> str:
        end = next((at for at, token in enumerate(ids) if token in self.eos_ids), len(ids))
        text = self.tokenizer.decode([i for i in ids[:end] if i < self.tokenizer.vocab_size])
        for stop in self.template.stop:
            text = text.partition(stop)[0]
        return text.rstrip(REPLACEMENT).strip()  # the last character may be cut in two


def ask_both(model: Any, speaker: GreedyGenerator, examples: Sequence[Example]) -> list[Comparison]:
    """The replies of `model`, an adapter over its base, to the first question of each example."""
    chats = [_opening(example.chat.messages) for example in examples]
    training = model.training
    model.eval()
    with model.disable_adapter():
        base = speaker.replies(model, [question for question, _ in chats])
    adapted = speaker.replies(model, [question for question, _ in chats])
    model.train(training)
    return [
        Comparison(question[-1].content, wanted, *said)
        for (question, wanted), *said in zip(chats, base, adapted, strict=True)
    ]


def _opening(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """Up to the first reply, and that reply."""
    at = next(i for i, message in enumerate(messages) if message.role == "assistant")
    return tuple(messages[:at]), messages[at].content
