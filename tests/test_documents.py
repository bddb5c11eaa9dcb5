"""README and docs/: every flag of the server, and the same commands in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT, FIELDS
from model.translations import languages, texts, texts_by_code

CHINESE = sorted([*CHECKOUT.glob("*.zh.md"), *CHECKOUT.glob("docs/*.zh.md")])


def code_blocks(page: Path) -> list[str]:
    """Returns the code blocks of a page without comments and `--lang zh`, which differ by
    language."""
    blocks = re.findall(r"^ *```\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.M | re.S)
    plain = [re.sub(r" +#.*|<.*?>", "", block) for block in blocks]
    return [block.replace(" --lang zh", "") for block in plain]


@pytest.mark.parametrize("name", ["serving.md", "serving.zh.md"])
def test_serving_page_lists_every_flag(name: str) -> None:
    """It is easy to forget the page when a flag is added or removed."""
    rows = [
        line.split("|")[1]
        for line in (CHECKOUT / "docs" / name).read_text(encoding="utf-8").splitlines()
        if line.startswith("| `--")
    ]
    assert sorted(re.findall(r"--([a-z_]+)", " ".join(rows))) == sorted(FIELDS)


@pytest.mark.parametrize("chinese", CHINESE, ids=lambda page: page.name)
def test_chinese_page_has_the_commands_and_parts_of_the_english_one(chinese: Path) -> None:
    english = chinese.with_name(chinese.name.replace(".zh.md", ".md"))
    assert code_blocks(chinese) == code_blocks(english)
    headings, expected = (
        [len(mark) for mark in re.findall(r"^(#+) ", page.read_text(encoding="utf-8"), re.M)]
        for page in (chinese, english)
    )
    assert headings == expected


@pytest.mark.parametrize("name", ["troubleshooting.md", "troubleshooting.zh.md"])
def test_troubleshooting_quotes_messages_of_the_program(name: str) -> None:
    """A reworded message is easily left as it was on the page. Numbers and … stand for values."""
    messages: list[str] = []
    for language in languages():
        messages += [entry["message"] for entry in texts_by_code(language).values()]
        messages += texts(language).values()
    page = (CHECKOUT / "docs" / name).read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]*`[^|]*) \|", page, re.M)
    quotes = [quote for cell in cells for quote in re.findall(r"`([^`]*)`", cell)]
    assert len(quotes) > 10
    for quote in quotes:
        parts = [part.strip() for part in re.split(r"…|\b\d+\b", quote)]
        assert any(all(part in message for part in parts) for message in messages), quote
