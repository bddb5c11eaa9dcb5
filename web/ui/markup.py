"""What people and models write, as Markdown that shows it and never runs or swallows any of it."""

from __future__ import annotations

import html
import re

# Fenced blocks (the last one may still be open while a reply streams) and inline code.
CODE = re.compile(r"(^```.*?(?:^```[^\S\n]*$|\Z)|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
INDENT = re.compile(r"^ +|(?<= ) ", re.MULTILINE)


def typed(text: str) -> str:
    """A person's message exactly as typed: no Markdown, no HTML."""
    literal = PUNCTUATION.sub(lambda match: f"&#{ord(match.group())};", text)
    spaced = INDENT.sub(lambda match: "&nbsp;" * len(match.group()), literal)
    return spaced.replace("\n", "<br>")


def replied(text: str) -> str:
    """A model's reply: its Markdown, code and LaTeX count, its HTML is shown as text."""
    parts = CODE.split(text)
    return "".join(
        part if index % 2 else html.escape(part, quote=False).replace("&gt;", ">")
        for index, part in enumerate(parts)
    )


def facts(text: str) -> str:
    """The small line under a reply."""
    return f'\n\n<div class="facts">{html.escape(text)}</div>'


def plain(text: str) -> str:
    """Text for an HTML component."""
    return html.escape(text)
