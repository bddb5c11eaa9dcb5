"""The usual forms of training data, read as messages."""

from __future__ import annotations

from typing import Any

import pytest

from model.config.settings import CHECKOUT
from model.text.prompt import PromptTemplate, load_templates
from model.types import Message
from training.formats import RowError, read_messages

PLAIN = PromptTemplate("plain", "")
TEMPLATES = load_templates(CHECKOUT / "prompts")


def said(row: Any, template: PromptTemplate = PLAIN) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in read_messages(row, template)]


ASKED = [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Hi", "input": "", "output": "Hello"},
        {"instruction": "Hi", "output": "Hello"},
        {"instruction": "Hi", "input": None, "output": "Hello", "id": 3},
        {"prompt": "Hi", "completion": "Hello"},
        {"prompt": "Hi", "response": "Hello"},
        {"messages": [{"role": "user", "content": "Hi"},
                      {"role": "assistant", "content": "Hello"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                      {"role": "assistant", "content": "Hello"}]},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        {"conversations": [{"from": "User", "value": "Hi"}, {"from": "Assistant", "value": "Hello"},
                           {"from": "human", "value": "Bye"}]},
    ],
)  # fmt: skip
def test_the_same_chat_in_every_form(row: dict[str, Any]) -> None:
    assert said(row) == ASKED


def test_several_turns_with_a_system_prompt() -> None:
    turns = [("system", "Be kind."), *ASKED, ("user", "Why?"), ("assistant", "So.")]
    as_messages = {"messages": [{"role": role, "content": text} for role, text in turns]}
    assert said(as_messages) == turns
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    shared = [{"from": names[role], "value": text} for role, text in turns]
    assert said({"conversations": shared}) == turns
    assert said({"conversations": shared[1:], "system": "Be kind."}) == turns
    old = {
        "instruction": "Why?",
        "output": "So.",
        "history": [["Hi", "Hello"]],
        "system": "Be kind.",
    }
    assert said(old) == turns


def test_openais_developer_speaks_as_system() -> None:
    row = {"messages": [{"role": "developer", "content": "Be kind."},
                        {"role": "assistant", "content": "Hello"}]}  # fmt: skip
    assert said(row) == [("system", "Be kind."), ("assistant", "Hello")]


def test_an_input_is_written_as_the_template_wants_it() -> None:
    row = {"instruction": "Translate {input}.", "input": "{instruction} 世界", "output": "world"}
    assert said(row)[0] == ("user", "Translate {input}.\n{instruction} 世界")
    system, question, _ = read_messages(row, TEMPLATES["alpaca"])
    assert system.role == "system"
    assert "paired with an input" in system.content
    assert question == Message("user", "Translate {input}.\n\n### Input:\n{instruction} 世界")
    short = read_messages(row, TEMPLATES["alpaca_short"])
    assert [m.role for m in short] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (3, "a number where an object"),
        (None, "null where an object"),
        ([1], "a list where an object"),
        ({}, "it has nothing, but not instruction"),
        ({"question": "Hi", "answer": "Hello"}, "it has question, answer, but not"),
        ({"instruction": "Hi"}, "it has instruction, but not"),
        ({"instruction": 3, "output": "x"}, "instruction is a number where text"),
        ({"instruction": "Hi", "output": None}, "output is null where text"),
        ({"instruction": "Hi", "output": " \n"}, "the reply is empty"),
        ({"instruction": "Hi", "output": "x", "history": [["a"]]}, "history must be a list"),
        ({"instruction": "Hi", "output": "x", "history": 5}, "history must be a list"),
        ({"instruction": "Hi", "output": "\ud83d"}, "output holds half a character"),
        ({"messages": "Hi"}, "messages is text where a list"),
        ({"messages": []}, "nothing that the assistant says"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "nothing that the assistant says"),
        ({"messages": ["Hi"]}, "messages[0] is text where an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "has the role 'tool'"),
        ({"messages": [{"content": "x"}]}, "has the role None"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0] is null where text"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]}, "a list where"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0}]}, "weight 0"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"},
                       {"role": "assistant", "content": "Hello"}]}, "behind others"),
    ],
)  # fmt: skip
def test_rows_that_are_no_chats_tell_why(row: Any, reason: str) -> None:
    with pytest.raises(RowError) as caught:
        read_messages(row, PLAIN)
    assert reason in str(caught.value)
