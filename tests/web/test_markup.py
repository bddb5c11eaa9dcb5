"""What is written is shown, and never run or swallowed."""

from __future__ import annotations

import html

import pytest

from web.ui import markup


@pytest.mark.parametrize(
    "text", ["<b>x</b>", "**a** _b_ `c` #1", "a\nb\n\n  c", "1 < 2 && 3 > 2", "&lt;", "$x$ ~~y~~"]
)
def test_typed_text_survives_as_it_is(text: str) -> None:
    shown = markup.typed(text)
    back = html.unescape(shown.replace("<br>", "\n")).replace("\xa0", " ")
    assert back == text


def test_typed_text_has_no_markdown_left() -> None:
    literal = markup.typed("*_`#[]<>$|~").replace("&#", "").replace(";", "")
    assert literal.isdigit()


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("a & b", "a &amp; b"),
        ("`a < b` < c", "`a < b` &lt; c"),
        ("```html\n<b>\n```\n<b>", "```html\n<b>\n```\n&lt;b>"),
        ("```html\n<b> still open", "```html\n<b> still open\n```"),
        ("1. so\n\n   ```\n   <b>\n   ```\n<b>", "1. so\n\n   ```\n   <b>\n   ```\n&lt;b>"),
        ("~~~\n<b>\n~~~\n<b>", "~~~\n<b>\n~~~\n&lt;b>"),
        ("````\n```\n<b>\n````", "````\n```\n<b>\n````"),
        ("``a ` <b>`` <b>", "``a ` <b>`` &lt;b>"),
        ("\\`<img src=x>`", "\\`&lt;img src=x>`"),
        ("> quoted", "> quoted"),
        ("**bold**", "**bold**"),
    ],
)
def test_replies_keep_markdown_and_show_html(reply: str, shown: str) -> None:
    assert markup.replied(reply) == shown


def test_facts_are_escaped() -> None:
    assert "<b>" not in markup.facts("<b>")
