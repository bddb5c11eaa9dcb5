"""Chats, templates and a simple tokenizer for the tests of prompts."""

from __future__ import annotations

from collections.abc import Sequence

from model.text.prompt_template import PromptTemplate
from model.text.tokenizer import TextSpan
from model.types import Message
from tests.fake_engine import LetterTokenizer
from tests.tiny_model import TEMPLATE as CHATML

__all__ = ["CHATML", "LLAMA_2", "LONG", "Letters", "chat", "template", "text_of"]

LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '')"
    " + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)


class Letters(LetterTokenizer):
    """One token per character, so that lengths are easy to count; with LLaMA's bos and eos."""

    bos: str | None = "<s>"
    eos: str | None = "</s>"
    eos_id: int | None = 2
    prefix_ids: tuple[int, ...] = (1,)


def chat(*contents: str, system: str | None = None) -> list[Message]:
    """Messages of the user and the assistant in turn."""
    first = [] if system is None else [Message("system", system)]
    turns = [Message("assistant" if i % 2 else "user", c) for i, c in enumerate(contents)]
    return [*first, *turns]


def text_of(spans: Sequence[TextSpan]) -> str:
    return "".join(span.text for span in spans)


def template(source: str) -> PromptTemplate:
    return PromptTemplate("mine", source)


# linly: "<s>" and "Bot: " are 8 letters, a question of one letter 8, a reply of one letter 7
LONG = chat("1", "a", "2", "b", "3")
