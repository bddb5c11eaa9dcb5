"""README and docs/: every flag of the server, and the same commands in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT, FIELDS

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
