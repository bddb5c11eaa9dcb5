"""Checks a base's chat template: whether it renders a question, and does so as in transformers.

transformers renders without limits, so the comparison runs in a process of its own, with limits of
time and memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path

from jinja2 import TemplateError

from model.cleanup import run_child
from model.config.process_secrets import without_secrets
from model.diagnostics import Finding, finding
from model.errors import RequestError
from model.text.prompt_template import PromptTemplate, compile_template
from model.text.tokenizer import Tokenizer
from model.types import Message

CHATS = (
    (Message("user", "Is 3 < 4? 你好"),),
    (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Why?")),
    (Message("system", "Be brief."), Message("user", "Hi")),
)
MAX_SECONDS = 60  # for transformers' import and renderings
MAX_BYTES = 4 << 30  # of memory for the renderings
QUOTED = 40  # characters of each rendering that a finding quotes, from where they differ
MAX_REASON = 200  # characters of an error
CHECKOUT = Path(__file__).parents[2]


def check_template(source: str, tokenizer: Tokenizer) -> Iterator[Finding]:
    """Yields a finding if the template does not compile, or cannot render a question."""
    try:
        compile_template(source)
        _template(source).render(CHATS[0], tokenizer)
    except RequestError as error:
        yield finding("chat_template_broken", reason=_short(error.text.facts["error"]))
    except (TemplateError, ValueError, RecursionError) as error:
        yield finding("chat_template_broken", reason=_short(error))


def compare_template(source: str, tokenizer: Tokenizer) -> Iterator[Finding]:
    """Yields a finding if the template renders a chat in another way than in transformers.

    Takes about two seconds: a new process imports transformers.
    """
    theirs = _transformers_renderings(source, tokenizer.bos or "", tokenizer.eos or "")
    if theirs is None:
        yield finding("chat_template_not_compared", seconds=MAX_SECONDS)
        return
    for chat, expected in zip(CHATS, theirs, strict=True):
        text = _render(source, chat, tokenizer)
        if text != expected:
            here, there = _from_difference(text, expected)
            yield finding(
                "chat_template_differs", roles=", ".join(m.role for m in chat), here=here,
                there=there,
            )  # fmt: skip
            return


def _template(source: str) -> PromptTemplate:
    return PromptTemplate("model", source)


def _render(source: str, chat: tuple[Message, ...], tokenizer: Tokenizer) -> str | None:
    """The chat as text; None if the template cannot render it."""
    try:
        return "".join(span.text for span in _template(source).render(chat, tokenizer))
    except RequestError:
        return None


@lru_cache(maxsize=8)
def _transformers_renderings(source: str, bos: str, eos: str) -> list[str | None] | None:
    """transformers' renderings of the chats; None if they take too much time or memory."""
    task = json.dumps({"chat_template": source, "bos_token": bos, "eos_token": eos})
    try:
        child = run_child(
            [sys.executable, "-m", "model.doctor.check_template"], text=task, cwd=CHECKOUT,
            env=without_secrets(os.environ), timeout=MAX_SECONDS,
        )  # fmt: skip
        child.check_returncode()
        renderings: list[str | None] = json.loads(child.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return renderings


def _from_difference(text: str | None, other: str | None) -> tuple[str, str]:
    """Both texts from where they differ; "–" stands for no text at all."""
    if text is None or other is None:
        return (text or "–")[:QUOTED], (other or "–")[:QUOTED]
    pairs = enumerate(zip_longest(text, other))
    start = next(i for i, (char, expected) in pairs if char != expected)
    return text[start : start + QUOTED], other[start : start + QUOTED]


def _short(error: object) -> str:
    return " ".join(str(error).split())[:MAX_REASON]


def _render_in_transformers() -> None:
    """Reads a task from stdin, and writes the renderings to stdout."""
    from transformers.utils.chat_template_utils import render_jinja_template

    task = json.load(sys.stdin)
    _limit_resources()
    renderings: list[str | None] = []
    for chat in CHATS:
        try:
            (text,), _ = render_jinja_template(
                [[asdict(message) for message in chat]], add_generation_prompt=True, **task
            )
        except Exception:  # a template is a program, which can raise any error
            text = None
        renderings.append(text)
    json.dump(renderings, sys.stdout)


def _limit_resources() -> None:
    # The limit also ends the process if its parent has been killed.
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (MAX_SECONDS, MAX_SECONDS))


if __name__ == "__main__":  # python -m model.doctor.check_template
    _render_in_transformers()
