"""The texts of the scripts."""

from __future__ import annotations

import re

from model.translations import table
from tests.web.ui.static.harness import STATIC
from web.ui.custom_components import MOUNT

TEXTS = table("en", "scripts")
SCRIPTS = MOUNT + "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))


def test_every_used_text_exists() -> None:
    asked_for = set(re.findall(r"(?:\bt|words\(\))\('(\w+)'", SCRIPTS))
    assert asked_for
    assert asked_for <= TEXTS.keys()


def test_no_text_is_left_over() -> None:
    left = [key for key in TEXTS if not re.search(rf"['`]{key}['`]", SCRIPTS)]
    assert left == ["version_before", "version_after"]  # `version_${drawing}`
