"""The texts of the scripts."""

from __future__ import annotations

import json
import re

from tests.web.ui.static.harness import STATIC
from web.ui.custom_components import MOUNT

WORDS = json.loads((STATIC / "i18n.json").read_text(encoding="utf-8"))
SCRIPTS = MOUNT + "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))


def test_both_languages_have_the_same_texts() -> None:
    assert WORDS["en"].keys() == WORDS["zh"].keys()
    for key, text in WORDS["en"].items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", WORDS["zh"][key]))


def test_every_text_that_is_asked_for_is_there() -> None:
    asked_for = set(re.findall(r"(?:\bt|words\(\))\('(\w+)'", SCRIPTS))
    assert asked_for
    assert asked_for <= WORDS["en"].keys()


def test_no_text_is_left_over() -> None:
    left = [key for key in WORDS["en"] if not re.search(rf"['`]{key}['`]", SCRIPTS)]
    assert left == ["version_before", "version_after"]  # `version_${drawing}`
