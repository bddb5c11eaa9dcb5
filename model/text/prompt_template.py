"""Chat templates: renders messages into spans of text, and loads templates from `prompts/`.

This is the only renderer. A template is Jinja, as in transformers; the project's own templates are
TOML files. The messages' text passes through the template between markers, so that the tokenizer
can tell it from the template's own text: an `<|im_end|>` typed by a user stays text.

A template is a program by the model's author: `template_sandbox` limits its time and memory.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import Template, TemplateError

from model.bounded_files import read_text
from model.display import clean_description
from model.errors import RequestError, SettingsError
from model.text.template_sandbox import BoundedEnvironment
from model.text.tokenizer import TextSpan, Tokenizer
from model.types import Message

# Unicode noncharacters: never part of exchanged text, so removing them from messages loses nothing.
USER_START, REPLY_START, SPAN_END = "\ufdd0", "\ufdd1", "\ufdd2"
THINK = re.compile("(</?think>)")
MARKER = re.compile(f"([{USER_START}{REPLY_START}{SPAN_END}])")
INPUT_PLACEHOLDER = re.compile(r"\{instruction\}|\{input\}")
NO_MARKERS = str.maketrans("", "", USER_START + REPLY_START + SPAN_END)


@dataclass(frozen=True)
class PromptTemplate:
    """A chat template, with its stop strings.

    `source` is Jinja over `messages`, `add_generation_prompt`, `bos_token` and `eos_token`; a
    reply ends at any of the strings `stop`. `input_user` and `input_system` are for training data
    with an instruction and an input.
    """

    name: str
    source: str
    description: str = ""
    stop: tuple[str, ...] = ()
    input_user: str = "{instruction}\n{input}"
    input_system: str = ""

    def with_input(self, instruction: str, input_text: str) -> tuple[str, str]:
        """The system prompt ("" for none) and the user message for an instruction and its input."""
        values = {"{instruction}": instruction, "{input}": input_text}
        user = INPUT_PLACEHOLDER.sub(lambda match: values[match.group()], self.input_user)
        return self.input_system, user

    @cached_property
    def _compiled(self) -> tuple[BoundedEnvironment, Template]:
        environment = BoundedEnvironment()
        return environment, environment.compile_template(self.source)

    def render(
        self, messages: Sequence[Message], tokenizer: Tokenizer, reply_follows: bool = True
    ) -> list[TextSpan]:
        """The chat as spans of text; with `reply_follows` it ends where the reply begins.

        Raises:
            RequestError: the template cannot render these messages.
        """
        try:
            environment, template = self._compiled
            text = environment.render_template(
                template,
                [_with_markers(message) for message in messages],
                add_generation_prompt=reply_follows,
                bos_token=tokenizer.bos or "",
                eos_token=tokenizer.eos or "",
            )
            text.encode()  # "\ud800" in a template is half a character
        except Exception as error:  # a template is a program, which can raise any error
            raise RequestError("template_cannot_render", name=self.name, error=error) from error
        return _split_at_markers(text)


def _with_markers(message: Message) -> dict[str, str]:
    """The message for a template, with markers around its text.

    Leading and trailing space stays outside of the markers, where the template's `trim` removes it.
    """
    text = message.content.translate(NO_MARKERS)
    core = text.strip()
    lead, _, trail = text.partition(core) if core else (text, "", "")
    if message.role != "assistant":
        return {"role": message.role, "content": f"{lead}{USER_START}{core}{SPAN_END}{trail}"}
    # Templates cut replies at <think> and </think>, so these stay outside of the markers.
    parts = [
        part if THINK.fullmatch(part) else f"{REPLY_START}{part}{SPAN_END}"
        for part in THINK.split(core)
        if part
    ]
    return {"role": message.role, "content": f"{lead}{''.join(parts)}{trail}"}


def _split_at_markers(text: str) -> list[TextSpan]:
    """Rendered text as spans, which end at the markers.

    If a template has cut a message, one of its two markers is gone. All text up to the next marker
    then counts as message text: rather too much of the template than a typed control token.
    """
    pieces = MARKER.split(text)
    spans: list[TextSpan] = []
    before = ""
    for piece, after in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        in_message = before in (USER_START, REPLY_START) or after == SPAN_END
        spans.append(TextSpan(piece, control=not in_message, reply=before == REPLY_START))
        before = after
    return [span for span in spans if span.text]


def load_templates(folder: Path) -> dict[str, PromptTemplate]:
    """The templates of a folder, its files `<name>.toml`, by name.

    Raises:
        SettingsError: one of them cannot be read.
    """
    return {path.stem: _read_template(path) for path in sorted(folder.glob("*.toml"))}


def _read_template(path: Path) -> PromptTemplate:
    try:
        data = tomllib.loads(read_text(path))
        input_texts = data.get("with_input", {})
        template = PromptTemplate(
            path.stem, data["template"], clean_description(data.get("description")),
            tuple(data.get("stop", ())),
            **{f"input_{role}": str(text) for role, text in input_texts.items()},
        )  # fmt: skip
        stop = data.get("stop", [])
        if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
            raise ValueError("stop must be a list of strings")
        _ = template._compiled
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError,
            TemplateError) as error:  # fmt: skip
        raise SettingsError("template_unreadable", path=path, error=error) from error
    return template
