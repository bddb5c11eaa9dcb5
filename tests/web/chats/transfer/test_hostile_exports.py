"""Exports of other programs that are made to do harm."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from model.errors import RequestError
from tests.web.chats.transfer.other_chats import (
    HELLO,
    HI,
    LEFT_OUT,
    LISTS,
    QUESTION,
    REPLY,
    ROOT,
    WEBUI,
    chatgpt,
    of_type,
    read_all,
    read_one,
    say,
    shown,
    webui,
    webui_message,
)
from web.chats.store.models import MAX_SETTING, MAX_TEXT
from web.chats.transfer import import_models


def circle(length: int) -> dict[str, Any]:
    nodes = (say(str(n), str((n + 1) % length), "user", "x") for n in range(length))
    return chatgpt(QUESTION, *nodes)


@pytest.mark.parametrize("value", [
    circle(1), circle(2), circle(5000),
    webui(webui_message("a", "b", "user", "x"), webui_message("b", "a", "user", "x")),
], ids=["itself", "two", "many", "Open WebUI"])  # fmt: skip
def test_circle_is_refused(value: Any) -> None:
    with pytest.raises(RequestError, match="follow each other in a circle"):
        read_all(value)


@pytest.mark.parametrize("parent", ["gone", 7, None, [], {"id": "q"}])
def test_message_with_a_missing_parent_begins_a_branch(parent: Any) -> None:
    (chat,), _ = read_all(chatgpt(QUESTION, say("b", parent, "user", "Else"), current="b"))
    assert [(m.text, m.parent) for m in chat.messages] == [("Hi", None), ("Else", None)]
    assert shown(chat) == [("user", "Else")]


def test_deep_chat_is_read() -> None:
    """Deeper than Python's stack; a reply of many parts is not copied for each of them."""
    count = import_models.MAX_CHAT_MESSAGES
    roles = ("user", "assistant")
    nodes = [say(str(n), str(n - 1), roles[n % 2], "x") for n in range(count)]
    assert len(read_one(chatgpt(*nodes, current=str(count - 1)))[0]) == count
    replies = [say(str(n), str(n - 1), "assistant", "x") for n in range(count)]
    (turn,) = read_one(chatgpt(*replies))[0]
    assert turn == ("assistant", "\n\n".join("x" * count))


def many(count: int) -> list[Any]:
    nodes = [say(str(n), None, "user", "x") for n in range(count)]
    messages = [webui_message(str(n), None, "user", "x") for n in range(count)]
    return [chatgpt(*nodes), webui(*messages),
            {"chat": {"messages": [HI] * count}}, {"chat_messages": [HI] * count},
            {"instruction": "x", "output": "y", "history": [["a", "b"]] * count}]  # fmt: skip


@pytest.mark.parametrize("value", many(import_models.MAX_CHAT_MESSAGES + 1),
                         ids=["ChatGPT", "Open WebUI", "list", "Claude", "history"])  # fmt: skip
def test_too_many_messages_are_refused(value: Any) -> None:
    with pytest.raises(RequestError, match="more than 10000 messages"):
        read_all(value)


LONG, LONG_SYSTEM = "x" * (MAX_TEXT + 1), "x" * (MAX_SETTING + 1)
HALVES = [say(str(n), str(n - 1), "assistant", "x" * (MAX_TEXT // 2)) for n in range(3)]


@pytest.mark.parametrize("value", [
    chatgpt(say("q", None, "user", LONG)), chatgpt(of_type("code", text=LONG)), chatgpt(*HALVES),
    chatgpt(say("q", None, "user", *["x" * (MAX_TEXT // 2)] * 3)),
    webui(webui_message("q", None, "user", LONG)),
    webui(webui_message("q", None, "user", "x"), system=LONG_SYSTEM),
    {"instruction": LONG, "output": "x"}, {"messages": [HI, {**HELLO, "reasoning": LONG}]},
    {"instruction": "x", "output": "x", "system": LONG_SYSTEM},
    chatgpt(say("s", None, "system", LONG_SYSTEM), say("q", "s", "user", "x")),
    chatgpt(of_type("user_editable_context", user_profile=LONG), QUESTION),
], ids=range(11))  # fmt: skip
def test_too_long_text_is_refused(value: Any) -> None:
    with pytest.raises(RequestError, match="longer than"):
        read_all(value)


ODD: list[Any] = [None, True, 7, -1e300, "x", [], [[]], {}, {"a": []}, "\ud83d\0", "9" * 5000]
SAMPLES = [
    chatgpt(ROOT, QUESTION, REPLY, *(node for node, _ in LEFT_OUT.values()), current="a"),
    WEBUI, WEBUI["chat"], *(value for value, _, _ in LISTS.values()),
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the paths to all values within a value of JSON."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    below = [(*path, key) for key in keys]
    return below + [place for at in below for place in places(value[at[-1]], at)]


@pytest.mark.parametrize("sample", SAMPLES, ids=range(len(SAMPLES)))
def test_any_value_in_any_place_is_read_or_refused(sample: Any) -> None:
    """Never does another error come of it."""
    for place in places(sample):
        for odd in ODD:
            value = json.loads(json.dumps(sample))
            at = value
            for key in place[:-1]:
                at = at[key]
            at[place[-1]] = odd
            with contextlib.suppress(RequestError):
                for chat in read_all(value)[0]:
                    assert all(isinstance(text.encode(), bytes) for _, text in shown(chat))


@pytest.mark.parametrize("text", ['<details type="reasoning"', "\ue200", '<details type="'])
def test_openings_without_an_end_take_no_time(text: str) -> None:
    """Each of them would be searched for its end through the whole text."""
    reply = text * (MAX_TEXT // len(text.encode()) - 1)
    value = webui(webui_message("a", None, "assistant", reply))
    assert read_one(value)[0][0] == ("assistant", reply)
