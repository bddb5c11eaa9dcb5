"""What people and models write, as Markdown that shows it and never runs or swallows any of it."""

from __future__ import annotations

import html
import re

# Fenced blocks (the last one may still be open while a reply streams) and inline code.
CODE = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,}).*?(?P<end>^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)"
    r"|(?<![\\`])(?P<ticks>`+)(?!`)[^\n]+?(?<!`)(?P=ticks)(?!`)",
    re.DOTALL | re.MULTILINE,
)
PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
INDENT = re.compile(r"^ +|(?<= ) ", re.MULTILINE)


def typed(text: str) -> str:
    """A person's message exactly as typed: no Markdown, no HTML."""
    literal = PUNCTUATION.sub(lambda match: f"&#{ord(match.group())};", text)
    spaced = INDENT.sub(lambda match: "&nbsp;" * len(match.group()), literal)
    return spaced.replace("\n", "<br>")


def replied(text: str) -> str:
    """A model's reply: its Markdown, code and LaTeX count, its HTML is shown as text."""
    shown, at = "", 0
    for code in CODE.finditer(text):
        shown += _escaped(text[at : code.start()]) + code.group()
        if code["fence"] and not code["end"]:
            shown += f"\n{code['fence']}"  # cut off: what comes below is no code any more
        at = code.end()
    return shown + _escaped(text[at:])


def _escaped(text: str) -> str:
    # ">" stays: it begins a quotation, and alone it is no markup.
    return html.escape(text, quote=False).replace("&gt;", ">")


def facts(text: str) -> str:
    """The small line under a reply."""
    return f'\n\n<div class="facts">{html.escape(text)}</div>'


def plain(text: str) -> str:
    """Text for an HTML component."""
    return html.escape(text)
