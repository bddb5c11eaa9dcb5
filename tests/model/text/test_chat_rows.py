"""Rows of chat files: roles, content and instructions."""

from __future__ import annotations

import pytest

from model.text.chat_rows import (
    content_text,
    find_role,
    has_lone_surrogate,
    instruction_messages,
)
from model.text.prompt_template import PromptTemplate
from model.types import Message

TEMPLATE = PromptTemplate(
    "t", "", input_system="Use the input.", input_user="{instruction}: {input}"
)


@pytest.mark.parametrize(
    ("name", "role"),
    [("developer", "system"), ("Human", "user"), ("GPT", "assistant"), ("tool", None), (None, None),
     (["user"], None)],
)  # fmt: skip
def test_find_role_knows_the_names_of_other_programs(name: object, role: str | None) -> None:
    assert find_role(name) == role


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}], None),
        (["a"], None),
        (None, None),
        (3, None),
    ],
)
def test_content_text_reads_text_and_lists_of_text_parts(content: object, text: str | None) -> None:
    assert content_text(content) == text


def test_has_lone_surrogate() -> None:
    assert has_lone_surrogate("a\ud83d")
    assert not has_lone_surrogate("\U0001f600")


def test_instruction_messages_writes_the_input_with_the_template() -> None:
    assert instruction_messages("Add", "1 2", TEMPLATE) == (
        Message("system", "Use the input."),
        Message("user", "Add: 1 2"),
    )
    assert instruction_messages("Add", " ", TEMPLATE) == (Message("user", "Add"),)
