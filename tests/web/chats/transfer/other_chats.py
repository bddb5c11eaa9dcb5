"""Chats as other programs export them, and what they are imported as."""

from __future__ import annotations

import json
from typing import Any

from web.chats.message_tree import path_to
from web.chats.store.models import ImportedChat
from web.chats.transfer.import_file import read_chats
from web.chats.transfer.message_content import LeftOutCounts

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


# Nodes of ChatGPT that are left out, with the kind that is told.
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


# Lists of messages that become the same chat, with its system prompt and what is left out.
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
