"""The texts of the scripts."""

from __future__ import annotations

import re

from model.translations import table
from tests.web.ui.static.harness import STATIC
from web.chats.transfer.message_content import LeftOut
from web.ui.custom_components import MOUNT

TEXTS = table("en", "scripts")
SCRIPTS = MOUNT + "".join(path.read_text(encoding="utf-8") for path in STATIC.glob("*.js"))


def test_every_used_text_exists() -> None:
    used = set(re.findall(r"(?:\bt|translator\(\))\('(\w+)'", SCRIPTS))
    assert used
    assert used <= TEXTS.keys()


def test_every_text_is_used() -> None:
    unused = [key for key in TEXTS if not re.search(rf"['`]{key}['`]", SCRIPTS)]
    composed = [f"left_out_{kind}" for kind in LeftOut]  # `left_out_${kind}`
    assert unused == ["version_before", "version_after", *composed]  # `version_${direction}`
