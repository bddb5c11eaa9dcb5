"""Chats of other programs: what becomes of them, what is left out and told, and what is refused."""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from model.errors import RequestError
from web.chats.message_tree import path_to
from web.chats.store.models import MAX_SETTING, MAX_TEXT, ImportedChat
from web.chats.transfer import import_models
from web.chats.transfer.import_file import read_chats
from web.chats.transfer.message_content import LeftOut, LeftOutCounts

HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
IMAGE = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
Turns = list[tuple[str, str]]


def read_all(value: Any) -> tuple[list[ImportedChat], dict[str, int]]:
    """Returns the chats of a file, and what they lack."""
    counts = LeftOutCounts()
    chats = list(read_chats(value if isinstance(value, str) else json.dumps(value), counts))
    return chats, dict(counts)


def shown(chat: ImportedChat) -> Turns:
    """Returns the branch that a chat shows; all others begin in the chat, too."""
    messages = {message.id: message for message in chat.messages}
    known: set[str | None] = {None}
    for message in chat.messages:
        assert message.parent in known
        known.add(message.id)
    return [(m.role, m.text) for m in path_to(messages, chat.chat.head)]


def read_one(value: Any) -> tuple[Turns, str, dict[str, int]]:
    """Returns the shown branch of the file's only chat, its system prompt, and what it lacks."""
    (chat,), counts = read_all(value)
    return shown(chat), chat.chat.settings.system, counts


def chatgpt_node(name: str, parent: str | None, **message: Any) -> tuple[str, dict[str, Any]]:
    return name, {"id": name, "parent": parent, "children": [], "message": message or None}


def say(name: str, parent: str | None, role: str, *parts: Any, **fields: Any) -> Any:
    """A node of ChatGPT's mapping."""
    content = {"content_type": "text", "parts": list(parts)}
    return chatgpt_node(name, parent, **{"author": {"role": role}, "content": content, **fields})


def chatgpt(*nodes: tuple[str, Any], current: Any = None, **fields: Any) -> dict[str, Any]:
    return {"title": "T", "create_time": 5.5, "mapping": dict(nodes), "current_node": current,
            "conversation_id": "x", **fields}  # fmt: skip


ROOT = chatgpt_node("root", None)
QUESTION = say("q", "root", "user", "Hi", create_time=7.0)
REPLY = say("a", "q", "assistant", "Hello", create_time=8.0)


def of_type(kind: str, role: str = "assistant", **content: Any) -> Any:
    """A node that follows the question, with content of this type."""
    return say("x", "q", role, content={"content_type": kind, **content})


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


LEFT_OUT: dict[str, tuple[Any, str]] = {
    "thoughts": (of_type("thoughts", thoughts=[{"summary": "s", "content": "c"}]), "thoughts"),
    "a recap": (of_type("reasoning_recap", content="Thought for 5 s"), "thoughts"),
    "code for a tool": (say("x", "q", "assistant", recipient="python", content={
        "content_type": "code", "language": "unknown", "text": "1+1"}), "tool_calls"),
    "text for a tool": (say("x", "q", "assistant", "{}", recipient="bio"), "tool_calls"),
    "a tool's result": (of_type("execution_output", "tool", text="2"), "tool_results"),
    "a page that a tool read": (of_type("tether_quote", "tool", text="x"), "tool_results"),
    "an image that a tool made": (of_type("multimodal_text", "tool", parts=[IMAGE]), "images"),
    "a hidden message": (say("x", "q", "system", "Secret", metadata={
        "is_visually_hidden_from_conversation": True}), "hidden"),
    "an unknown type": (of_type("hologram", parts=["x"]), "other"),
    "a type that is none": (say("x", "q", "assistant", content={"content_type": [1]}), "other"),
    "an unknown role": (say("x", "q", "critic", "Bad."), "other"),
}  # fmt: skip


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


def webui_message(name: str, parent: str | None, role: str, content: Any, **fields: Any) -> Any:
    return name, {"id": name, "parentId": parent, "childrenIds": [], "role": role,
                  "content": content, "timestamp": 9, **fields}  # fmt: skip


def webui(*messages: Any, current: Any = None, **fields: Any) -> dict[str, Any]:
    history = {"messages": dict(messages), "currentId": current}
    return {"id": "1", "title": "T", "updated_at": 12,
            "chat": {"title": "T", "history": history, "models": ["m"], **fields}}  # fmt: skip


WEBUI = webui(
    webui_message("q", None, "user", "Hi"), webui_message("a", "q", "assistant", "Hello"),
    webui_message("b", "q", "assistant", "Good day"), current="a", params={"system": "Be brief."},
)  # fmt: skip


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


LISTS: dict[str, tuple[Any, str, dict[str, int]]] = {
    "Alpaca": ({"instruction": "Hi", "input": "", "output": "Hello"}, "", {}),
    "LLaMA-Factory's history": ({"instruction": "Hi", "output": "Hello", "system": "Be brief.",
                                 "history": []}, "Be brief.", {}),
    "a prompt": ({"prompt": "Hi", "completion": "Hello"}, "", {}),
    "a response": ({"prompt": "Hi", "response": "Hello"}, "", {}),
    "FastChat": ({"id": "x", "conversations": [{"from": "human", "value": "Hi"},
                                               {"from": "gpt", "value": "Hello"}]}, "", {}),
    "LLaMA-Factory's tools": ({"system": "Be brief.", "tools": '[{"name": "f"}]', "conversations": [
        {"from": "human", "value": "Hi"}, {"from": "function_call", "value": "{}"},
        {"from": "observation", "value": "2"}, {"from": "gpt", "value": "Hello"}]},
        "Be brief.", {"tools": 1, "tool_calls": 1, "tool_results": 1}),
    "OpenAI's tools": ({"tools": [{}, {}], "messages": [
        HI, {"role": "assistant", "content": None, "tool_calls": [{}, {}]},
        {"role": "tool", "content": "2"}, HELLO]},
        "", {"tools": 2, "tool_calls": 2, "tool_results": 1}),
    "an image beside text": ({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "input_audio"}, {"type": "smell"}]}, HELLO]},
        "", {"images": 1, "recordings": 1, "other": 1}),
    "Claude": ({"name": "T", "chat_messages": [
        {"sender": "human", "text": "Hi", "attachments": [{"file_type": "pdf"}]},
        {"sender": "assistant", "content": [{"type": "text", "text": "Hello"}]}]},
        "", {"files": 1}),
    "developer": ({"messages": [{"role": "developer", "content": "Be brief."}, HI, HELLO]},
                  "Be brief.", {}),
    "ranked replies": ({"conversations": [{"from": "human", "value": "Hi"},
                                          {"from": "gpt", "value": "Hello"}],
                        "chosen": {"from": "gpt", "value": "x"}, "rejected": {}}, "",
                       {"answers": 1}),
}  # fmt: skip


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


@pytest.mark.parametrize("language", ["en", "zh"])
def test_each_kind_that_is_left_out_has_a_name(language: str) -> None:
    texts = tomllib.loads(Path(f"translations/{language}/scripts.toml").read_text("utf-8"))
    for kind in LeftOut:
        assert "{count}" in texts[f"left_out_{kind}"]


def test_counts_of_several_chats_are_added() -> None:
    value = [LISTS["OpenAI's tools"][0], LISTS["LLaMA-Factory's tools"][0]]
    assert read_all(value)[1] == Counter(tools=3, tool_calls=3, tool_results=2)
