"""Rows of training data in the usual formats, read as messages."""

from __future__ import annotations

from typing import Any

import pytest

from model.config.settings import CHECKOUT
from model.text.prompt_template import PromptTemplate, load_templates
from model.types import Message
from training.formats import RowError, read_messages

PLAIN = PromptTemplate("plain", "")
TEMPLATES = load_templates(CHECKOUT / "prompts")


def read(row: Any) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in read_messages(row, PLAIN)]


TURN = [("user", "Hi"), ("assistant", "Hello")]


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
def test_each_format_gives_the_same_messages(row: dict[str, Any]) -> None:
    assert read(row) == TURN


def test_each_format_can_have_a_system_prompt_and_several_turns() -> None:
    messages = [("system", "Be kind."), *TURN, ("user", "Why?"), ("assistant", "So.")]
    openai = [{"role": role, "content": text} for role, text in messages]
    assert read({"messages": openai}) == messages
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    sharegpt = [{"from": names[role], "value": text} for role, text in messages]
    assert read({"conversations": sharegpt}) == messages
    assert read({"conversations": sharegpt[1:], "system": "Be kind."}) == messages
    alpaca = {
        "instruction": "Why?",
        "output": "So.",
        "history": [["Hi", "Hello"]],
        "system": "Be kind.",
    }
    assert read(alpaca) == messages


def test_the_template_writes_the_input_of_an_instruction() -> None:
    row = {"instruction": "Translate {input}.", "input": "{instruction} 世界", "output": "world"}
    assert read(row)[0] == ("user", "Translate {input}.\n{instruction} 世界")
    system, question, _ = read_messages(row, TEMPLATES["alpaca"])
    assert system.role == "system"
    assert "paired with an input" in system.content
    assert question == Message("user", "Translate {input}.\n\n### Input:\n{instruction} 世界")
    short = read_messages(row, TEMPLATES["alpaca_short"])
    assert [m.role for m in short] == ["user", "assistant"]


def test_a_system_prompt_of_the_row_replaces_the_templates_own() -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be kind."}
    system, question, _ = read_messages(row, TEMPLATES["alpaca"])
    assert system == Message("system", "Be kind.")
    assert question.content.endswith("### Input:\n1 2")


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
        ({"instruction": "Hi", "output": "\ud83d"}, "output contains an invalid character"),
        ({"messages": "Hi"}, "messages is text where a list"),
        ({"messages": []}, "no message of the role assistant"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "no message of the role assistant"),
        ({"messages": ["Hi"]}, "messages[0] is text where an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "has the role 'tool'"),
        ({"messages": [{"content": "x"}]}, "has the role None"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0] is null where text"),
        ({"messages": [{"role": "assistant", "content": [{"type": "image_url"}]}]}, "a list where"),
        ({"messages": [{"role": "assistant", "content": "x", "weight": 0}]}, "weight 0"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"},
                       {"role": "assistant", "content": "Hello"}]}, "after other messages"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_a_chat_is_refused_with_the_reason(row: Any, reason: str) -> None:
    with pytest.raises(RowError) as raised:
        read_messages(row, PLAIN)
    assert reason in str(raised.value)
