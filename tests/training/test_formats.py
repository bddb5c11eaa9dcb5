"""Rows of training data in the usual formats, read as messages."""

from __future__ import annotations

from typing import Any

import pytest

from model.config.settings import CHECKOUT
from model.text.chat_rows import REASONING_KEYS
from model.text.prompt_template import PromptTemplate, load_templates
from model.types import Message
from training.formats import MARKS, RowError, read_chat

PLAIN = PromptTemplate("plain", "")
TEMPLATES = load_templates(CHECKOUT / "prompts")


def read(row: Any) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in read_chat(row, PLAIN).messages]


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
    system, question, _ = read_chat(row, TEMPLATES["alpaca"]).messages
    assert system.role == "system"
    assert "paired with an input" in system.content
    assert question == Message("user", "Translate {input}.\n\n### Input:\n{instruction} 世界")
    short = read_chat(row, TEMPLATES["alpaca_short"]).messages
    assert [m.role for m in short] == ["user", "assistant"]


def test_a_system_prompt_of_the_row_replaces_the_templates_own() -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be kind."}
    system, question, _ = read_chat(row, TEMPLATES["alpaca"]).messages
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
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no reply to learn"),
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "x", "weight": 0}]}, "no reply to learn"),
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "x", "weight": 0.5}]}, '"weight": 0.5'),
        ({"messages": [{"role": "user", "content": "Hi"},
                       {"role": "assistant", "content": "x", "train": "no"}]}, "\"train\": 'no'"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x",
                       "reasoning": {"a": 1}}]}, "messages[1].reasoning is an object"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "x"},
                       {"role": "assistant", "content": "Hello"}]}, "after other messages"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_a_chat_is_refused_with_the_reason(row: Any, reason: str) -> None:
    with pytest.raises(RowError) as raised:
        read_chat(row, PLAIN)
    assert reason in str(raised.value)


def conversation(*replies: dict[str, Any]) -> dict[str, Any]:
    turns = ([{"role": "user", "content": "Hi"}, {"role": "assistant", **r}] for r in replies)
    return {"messages": [message for turn in turns for message in turn]}


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize(
    ("value", "is_learned"), [(0, False), (False, False), (0.0, False), (1, True), (True, True),
                              (1.0, True), (None, True)]
)  # fmt: skip
def test_marks_exclude_replies_from_learning(mark: str, value: Any, is_learned: bool) -> None:
    row = conversation({"content": "a", mark: value}, {"content": "b"})
    chat = read_chat(row, PLAIN)
    assert chat.unlearned == (frozenset() if is_learned else {1})
    assert not chat.unread


def test_marks_on_sharegpts_turns_are_heeded() -> None:
    turns = [
        {"from": "human", "value": "Hi", "loss": True},
        {"from": "gpt", "value": "a", "loss": False},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "b", "loss": True},
    ]
    chat = read_chat({"conversations": turns}, PLAIN)
    assert chat.unlearned == {1}


def test_chat_ends_with_the_last_reply_that_is_learned() -> None:
    chat = read_chat(conversation({"content": "a"}, {"content": "b", "weight": 0}), PLAIN)
    assert [message.content for message in chat.messages] == ["Hi", "a"]


def test_reply_before_the_first_question_is_not_learned() -> None:
    """No prompt can ask for it."""
    messages = [
        {"role": "assistant", "content": "Welcome!"},
        *conversation({"content": "a"})["messages"],
    ]
    assert read_chat({"messages": messages}, PLAIN).unlearned == {0}


@pytest.mark.parametrize("key", REASONING_KEYS)
def test_reasoning_comes_before_the_reply_as_a_thought(key: str) -> None:
    thought = "<think>\nHm.\n</think>\n\n4"
    for row in (
        conversation({"content": "4", key: " Hm.\n"}),
        {"instruction": "Hi", "output": "4", key: "Hm."},
        {"prompt": "Hi", "completion": "4", key: "Hm."},
        {"prompt": "Hi", "response": "4", key: "Hm."},
    ):
        chat = read_chat(row, PLAIN)
        assert chat.messages[-1].content == thought
        assert not chat.unread


def test_empty_reasoning_is_no_thought() -> None:
    assert read(conversation({"content": "4", "thinking": " "})) == [
        ("user", "Hi"),
        ("assistant", "4"),
    ]


def test_keys_that_are_not_read_are_listed_without_metadata() -> None:
    row = conversation({"content": "4", "tool_calls": [1], "name": "Bot"})
    row["messages"][0]["images"] = ["a.png"]
    chat = read_chat({**row, "tools": [], "id": 3, "source": "x", "functions": []}, PLAIN)
    assert chat.unread == {"tool_calls", "images", "tools", "functions"}
    alpaca = {"instruction": "Hi", "output": "4", "text": "Hi 4", "rejected": "5"}
    assert read_chat(alpaca, PLAIN).unread == {"rejected"}
