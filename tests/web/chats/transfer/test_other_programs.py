"""Exports of Open WebUI, lists of messages, and files that are no chats."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from model.errors import RequestError
from tests.web.chats.transfer.other_chats import (
    HELLO,
    HI,
    LISTS,
    WEBUI,
    read_all,
    read_one,
    shown,
    webui,
    webui_message,
)
from web.chats.transfer.message_content import LeftOut


@pytest.mark.parametrize("value", [WEBUI, WEBUI["chat"], [WEBUI]], ids=["item", "chat", "list"])
def test_open_webui_branches_are_read(value: Any) -> None:
    (chat,), counts = read_all(value)
    assert shown(chat) == [("user", "Hi"), ("assistant", "Hello")]
    assert [m.text for m in chat.messages] == ["Hi", "Hello", "Good day"]
    assert (chat.chat.title, chat.chat.settings.system, counts) == ("T", "Be brief.", {})
    assert [m.created for m in chat.messages] == [9.0] * 3


def test_open_webui_list_of_messages_is_read() -> None:
    chat = {"title": "T", "messages": [{"id": "m", **HI}, {"id": "n", **HELLO}],
            "history": {"messages": {}, "currentId": "n"}, "timestamp": 1e12}  # fmt: skip
    for value in ([{"id": "1", "title": "T", "chat": chat}], chat):
        (found,), counts = read_all(value)
        assert (shown(found), counts) == ([("user", "Hi"), ("assistant", "Hello")], {})


def test_open_webui_what_is_left_out_is_told() -> None:
    thought = (
        '<details type="reasoning" done="true">\n<summary>Thought</summary>\n> x\n</details>\n'
    )
    call = '<details type="tool_calls" name="f">\n</details>'
    own = "<details><summary>mine</summary></details>"
    value = webui(
        webui_message("q", None, "user", "Hi", files=[{"type": "image"}, {"type": "file"}]),
        webui_message("a", "q", "assistant", f"{thought}Hello {call}{own}", sources=[{}, {}]),
        webui_message("e", "a", "user", "More"),
        webui_message("f", "e", "assistant", "", error={"content": "x"}), current="f",
    )  # fmt: skip
    turns, _, counts = read_one(value)
    assert turns == [("user", "Hi"), ("assistant", f"Hello {own}"), ("user", "More")]
    assert counts == {"images": 1, "files": 1, "thoughts": 1, "tool_calls": 1, "citations": 2}


@pytest.mark.parametrize(("value", "system", "counts"), LISTS.values(), ids=LISTS)
def test_lists_of_messages_are_read(value: Any, system: str, counts: dict[str, int]) -> None:
    assert read_one(value) == ([("user", "Hi"), ("assistant", "Hello")], system, counts)


def test_alpaca_history_and_input_are_read() -> None:
    row = {"instruction": "Sum", "input": "1 2", "output": "3", "history": [["Hi", "Hello"]]}
    assert read_one([row])[0] == [
        ("user", "Hi"), ("assistant", "Hello"), ("user", "Sum\n1 2"), ("assistant", "3"),
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_imported_as_it_is_trained(key: str) -> None:
    thought = "<think>\nHm.\n</think>\n\nHello"
    for value in ({"messages": [HI, {**HELLO, key: "Hm."}]},
                  {"instruction": "Hi", "output": "Hello", key: "Hm."}):  # fmt: skip
        assert read_one(value) == ([("user", "Hi"), ("assistant", thought)], "", {})


def test_lines_with_a_chat_each_are_read() -> None:
    rows = [{"messages": [HI, HELLO]}, {"instruction": "Sum", "output": "3"}]
    chats, counts = read_all("\n".join(map(json.dumps, rows)) + "\n\n")
    assert [chat.chat.title for chat in chats] == ["Hi", "Sum"]
    assert counts == {}


@pytest.mark.parametrize("rest", ["x", "{", "[1]", '{"a": 1}', "]", "null"])
def test_anything_else_behind_a_chat_is_refused(rest: str) -> None:
    with pytest.raises(RequestError):
        read_all(json.dumps({"messages": [HI, HELLO]}) + "\n" + rest)


NO_CHATS: dict[str, tuple[Any, str]] = {
    "ChatGPT's list of shared chats": ([{"id": "x", "conversation_id": "y", "title": "T"}],
                                       "id, conversation_id, title"),
    "ChatGPT's user": ({"id": "user-x", "email": "a@b", "birth_year": 1990}, "id, email"),
    "messages outside a chat": ([HI, HELLO], "role, content"),
    "many keys": ({f"key{n}": 1 for n in range(500)}, "key0, key1"),
    "a zip file": ("PK\3\4\x14\0\ufffd", "an archive. Unpack it"),
    "a gzip file": ("\x1f\ufffd\x08", "an archive. Unpack it"),
    "a web page": ("<html>", "it is not JSON. Choose an export"),
    "a mapping that is none": ({"mapping": ["x"]}, "mapping"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "message"), NO_CHATS.values(), ids=NO_CHATS)
def test_file_without_chats_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_all(value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500
    if "archive" not in message:
        assert "ChatGPT (conversations.json) or Open WebUI" in str(caught.value)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_kind_that_is_left_out_has_a_name(language: str) -> None:
    texts = tomllib.loads(Path(f"translations/{language}/scripts.toml").read_text("utf-8"))
    for kind in LeftOut:
        assert "{count}" in texts[f"left_out_{kind}"]


def test_counts_of_several_chats_are_added() -> None:
    value = [LISTS["OpenAI's tools"][0], LISTS["LLaMA-Factory's tools"][0]]
    assert read_all(value)[1] == Counter(tools=3, tool_calls=3, tool_results=2)
