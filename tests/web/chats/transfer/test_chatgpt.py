"""Exports of ChatGPT: branches, and what is left out and told."""

from __future__ import annotations

from typing import Any

import pytest

from model.errors import RequestError
from tests.web.chats.transfer.other_chats import (
    HELLO,
    IMAGE,
    LEFT_OUT,
    QUESTION,
    REPLY,
    ROOT,
    chatgpt,
    chatgpt_node,
    of_type,
    read_all,
    read_one,
    say,
    shown,
)


def test_chatgpt_branches_are_read() -> None:
    other = say("b", "q", "assistant", "Good day", create_time=9.0)
    value = [chatgpt(ROOT, QUESTION, REPLY, other, current="a", update_time=20.5)]
    (chat,), counts = read_all(value)
    assert shown(chat) == [("user", "Hi"), ("assistant", "Hello")]
    question, *replies = chat.messages
    assert [m.text for m in replies] == ["Hello", "Good day"]
    assert {m.parent for m in replies} == {question.id}
    assert (chat.chat.title, chat.chat.created, chat.chat.updated) == ("T", 7.0, 20.5)
    assert [m.created for m in chat.messages] == [7.0, 8.0, 9.0]
    assert counts == {}


@pytest.mark.parametrize("role", [{"author": {"role": "user"}}, {"author": None, "role": "user"}])
@pytest.mark.parametrize("content", ["Hi", {"parts": ["Hi"]}, {"parts": [None, "Hi"]},
                                     {"content_type": "text", "text": "Hi"}])  # fmt: skip
def test_chatgpt_older_messages_are_read(role: dict[str, Any], content: Any) -> None:
    node = chatgpt_node("q", None, content=content, **role)
    assert read_one(chatgpt(node, title=None)) == ([("user", "Hi")], "", {})


def test_chatgpt_custom_instructions_are_the_system_prompt() -> None:
    metadata = {"is_visually_hidden_from_conversation": True}
    about = say("u", "root", "user", metadata=metadata, content={
        "content_type": "user_editable_context", "user_profile": "I sail.",
        "user_instructions": "Be brief."})  # fmt: skip
    empty = say("s", "u", "system", "", metadata=metadata)
    question = say("q", "s", "user", "Hi")
    value = chatgpt(ROOT, about, empty, question, REPLY, current="a")
    assert read_one(value) == (
        [("user", "Hi"), ("assistant", "Hello")],
        "I sail.\n\nBe brief.",
        {},
    )


@pytest.mark.parametrize(("node", "kind"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_chatgpt_what_is_left_out_is_told(node: Any, kind: str) -> None:
    """What follows it stays in the chat."""
    value = chatgpt(ROOT, QUESTION, node, say("a", "x", "assistant", "Hello"), current="a")
    assert read_one(value) == ([("user", "Hi"), ("assistant", "Hello")], "", {kind: 1})


def test_chatgpt_current_node_that_is_left_out_shows_the_one_above() -> None:
    late = say("b", "q", "assistant", "Later")
    tool = say("t", "a", "tool", "x")
    value = chatgpt(ROOT, QUESTION, REPLY, late, tool, current="t")
    assert read_one(value)[0][-1] == ("assistant", "Hello")


def test_chatgpt_images_and_files_are_told() -> None:
    question = say("q", None, "user", content={"content_type": "multimodal_text", "parts": [
        IMAGE, IMAGE, "What is this?", {"content_type": "audio_transcription", "text": "Hm."},
        {"content_type": "real_time_user_audio_video_asset_pointer"}]},
        metadata={"attachments": [{"mime_type": "image/png"}, {"mime_type": "application/pdf"}]},
    )  # fmt: skip
    assert read_one(chatgpt(question, REPLY, current="a")) == (
        [("user", "What is this?\nHm."), ("assistant", "Hello")],
        "",
        {"images": 2, "recordings": 1, "files": 1},
    )


def test_message_of_an_image_alone_keeps_its_place() -> None:
    """Without it, two replies would follow each other."""
    question = say("q", None, "user", content={"content_type": "multimodal_text",
                                               "parts": [IMAGE, ""]})  # fmt: skip
    turns, _, counts = read_one(chatgpt(question, REPLY, current="a"))
    assert (turns, counts) == ([("user", "[image]"), ("assistant", "Hello")], {"images": 1})
    part = {"type": "image_url", "image_url": {"url": "x"}}
    turns, _, counts = read_one({"messages": [{"role": "user", "content": [part]}, HELLO]})
    assert (turns, counts) == ([("user", "[image]"), ("assistant", "Hello")], {"images": 1})


def test_chatgpt_parts_of_a_reply_are_joined() -> None:
    """Prompt templates of many models refuse two replies in a row."""
    value = chatgpt(
        ROOT, QUESTION, say("c", "q", "assistant", "I look."), say("t", "c", "tool", "x"),
        say("a", "t", "assistant", "Found \ue200cite\ue202turn0\ue201it."),
        say("q2", "a", "user", "Thanks"), current="q2",
    )  # fmt: skip
    turns, _, counts = read_one(value)
    assert turns == [("user", "Hi"), ("assistant", "I look.\n\nFound it."), ("user", "Thanks")]
    assert counts == {"tool_results": 1, "citations": 1}


def test_chatgpt_reply_with_two_continuations_is_not_joined() -> None:
    value = chatgpt(ROOT, QUESTION, REPLY, say("b", "a", "assistant", "1"),
                    say("c", "a", "assistant", "2"), current="b")  # fmt: skip
    (chat,), _ = read_all(value)
    assert [m.text for m in chat.messages] == ["Hi", "Hello", "1", "2"]
    assert shown(chat)[-1] == ("assistant", "1")


def test_chatgpt_code_is_a_block() -> None:
    code = of_type("code", language="python", text="1+1")
    assert read_one(chatgpt(QUESTION, code))[0][1] == ("assistant", "```python\n1+1\n```")
    fenced = of_type("code", language="\n`x`", text="```\n")
    assert read_one(chatgpt(QUESTION, fenced))[0][1] == ("assistant", "````\n```\n\n````")


def test_chats_without_messages_are_told() -> None:
    """An export often has some: it was refused as a whole."""
    empty = [chatgpt(ROOT), chatgpt(), {"chat": {"history": {"messages": {}}}}]
    chats, counts = read_all([*empty, chatgpt(QUESTION)])
    assert (len(chats), counts) == (1, {"chats": 3})
    with pytest.raises(RequestError, match="a chat in it has no messages with text"):
        read_all(empty)


def test_chatgpt_newer_custom_instructions_are_read() -> None:
    about = {"about_user_message": "I sail.", "about_model_message": "Be brief."}
    node = say("u", None, "user", metadata={"user_context_message_data": about},
               content={"content_type": "user_editable_context"})  # fmt: skip
    assert read_one(chatgpt(node, say("q", "u", "user", "Hi")))[1] == "I sail.\n\nBe brief."


@pytest.mark.parametrize("part", [7, {}, {"content_type": 7}, {"content_type": "canvas"}, ["x"]])
def test_chatgpt_unknown_part_is_told(part: Any) -> None:
    """One of them does not refuse a whole export."""
    node = say("q", None, "user", "Hi", part)
    assert read_one(chatgpt(node)) == ([("user", "Hi")], "", {"other": 1})
