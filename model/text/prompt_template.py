"""Chat templates: renders messages into spans of text, and loads templates from `prompts/`.

This is the only renderer. A template is Jinja, as in transformers; the project's own templates are
TOML files. The messages' text passes through the template as `TracedText`, so that the tokenizer
can tell it from the template's own text: an `<|im_end|>` typed by a user stays text.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateError

from model.bounded_files import read_text
from model.display import clean_description
from model.errors import RequestError, SettingsError
from model.text.template_environment import ChatTemplateEnvironment
from model.text.tokenizer import TextSpan, Tokenizer
from model.text.traced_text import TracedText, is_control, message_of, origin
from model.types import Message

THINK = re.compile("</?think>")
OPENED_THOUGHT = re.compile(r"<think>\s*\Z")
INPUT_PLACEHOLDER = re.compile(r"\{instruction\}|\{input\}")
SAME_ORIGIN = re.compile(r"(.)\1*", re.DOTALL)


@dataclass(frozen=True)
class PromptTemplate:
    """A chat template, with its stop strings.

    `source` is Jinja over `messages`, `add_generation_prompt`, `bos_token` and `eos_token`; a
    reply ends at any of the strings `stop`. `input_user` and `input_system` are for training data
    with an instruction and an input. Without `opens_thought`, prompts do not end with the tag of a
    thought that the template opens: for adapters whose replies have none.
    """

    name: str
    source: str
    description: str = ""
    stop: tuple[str, ...] = ()
    input_user: str = "{instruction}\n{input}"
    input_system: str = ""
    opens_thought: bool = True

    def with_input(self, instruction: str, input_text: str) -> tuple[str, str]:
        """The system prompt ("" for none) and the user message for an instruction and its input."""
        values = {"{instruction}": instruction, "{input}": input_text}
        user = INPUT_PLACEHOLDER.sub(lambda match: values[match.group()], self.input_user)
        return self.input_system, user

    def render(
        self, messages: Sequence[Message], tokenizer: Tokenizer, reply_follows: bool = True
    ) -> list[TextSpan]:
        """The chat as spans of text; with `reply_follows` it ends where the reply begins.

        Raises:
            RequestError: the template cannot render these messages.
        """
        try:
            environment, template = compile_template(self.source)
            text = environment.render_chat(
                template,
                [_traced(message, i) for i, message in enumerate(messages)],
                add_generation_prompt=reply_follows,
                bos_token=tokenizer.bos or "",
                eos_token=tokenizer.eos or "",
            )
            text.encode()  # "\ud800" in a template is half a character
        except Exception as error:  # a template is a program, which can raise any error
            raise RequestError("template_cannot_render", name=self.name, error=error) from error
        spans = _spans(TracedText.of(text))
        return spans if self.opens_thought else _without_opened_thought(spans)


@lru_cache(maxsize=64)
def compile_template(source: str) -> tuple[ChatTemplateEnvironment, Template]:
    """A template compiled, and the environment that renders it.

    Raises:
        TemplateError: it is no template, or too large.
    """
    environment = ChatTemplateEnvironment()
    return environment, environment.compile_template(source)


def opened_thought(spans: Sequence[TextSpan]) -> str:
    """The tag of a thought at the end of a prompt, with the white space after it."""
    last = spans[-1] if spans else TextSpan("")
    tag = OPENED_THOUGHT.search(last.text) if last.message is None else None
    return tag.group() if tag else ""


def _without_opened_thought(spans: list[TextSpan]) -> list[TextSpan]:
    tag = opened_thought(spans)
    if not tag:
        return spans
    last = spans[-1]
    return [*spans[:-1], replace(last, text=last.text.removesuffix(tag))]


def _traced(message: Message, index: int) -> dict[str, str]:
    """The message for a template."""
    content = message.content
    if message.role == "assistant":
        return {"role": message.role, "content": _traced_reply(content, index)}
    return {"role": message.role, "content": TracedText(content, origin(index) * len(content))}


def _traced_reply(text: str, index: int) -> TracedText:
    """The text of a reply, in which the tags of a thought may be control tokens."""
    origins = origin(index) * len(text)
    for tag in THINK.finditer(text):
        tag_origins = origin(index, control=True) * len(tag.group())
        origins = origins[: tag.start()] + tag_origins + origins[tag.end() :]
    return TracedText(text, origins)


def reply_spans(text: str, message: int = 0) -> list[TextSpan]:
    """The text of a reply, in which the tags of a thought may be control tokens."""
    return _spans(_traced_reply(text, message))


def _spans(text: TracedText) -> list[TextSpan]:
    """Rendered text as spans, each of one origin."""
    return [
        TextSpan(str.__getitem__(text, slice(*run.span())), is_control(run[1]), message_of(run[1]))
        for run in SAME_ORIGIN.finditer(text.origins)
    ]


def load_templates(folder: Path) -> dict[str, PromptTemplate]:
    """The templates of a folder, its files `<name>.toml`, by name.

    Raises:
        SettingsError: one of them cannot be read.
    """
    return {path.stem: _read_template(path) for path in sorted(folder.glob("*.toml"))}


def _read_template(path: Path) -> PromptTemplate:
    try:
        data = tomllib.loads(read_text(path))
        with_input = data.get("with_input", {})
        inputs: dict[str, Any] = {f"input_{role}": str(text) for role, text in with_input.items()}
        template = PromptTemplate(
            path.stem, data["template"], clean_description(data.get("description")),
            tuple(data.get("stop", ())), **inputs,
        )  # fmt: skip
        stop = data.get("stop", [])
        if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
            raise ValueError("stop must be a list of strings")
        compile_template(template.source)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError,
            TemplateError) as error:  # fmt: skip
        raise SettingsError("template_unreadable", path=path, error=error) from error
    return template
