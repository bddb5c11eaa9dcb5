"""Files of chats: what is exported can be imported, and which files are refused."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model.errors import RequestError
from model.sampling import Sampling
from model.translations import LocalizedText, load_text
from model.types import FinishReason
from web.chats.store.chat_store import ChatStore
from web.chats.store.models import (
    Chat,
    ChatMessage,
    ChatSettings,
    GenerationRun,
    ImportedChat,
    MessageState,
    Vote,
)
from web.chats.transfer import import_file, import_models
from web.chats.transfer.export import (
    ChatParts,
    export_chats,
    file_name,
    json_parts,
    markdown_parts,
    pair_parts,
)
from web.chats.transfer.import_file import read_chats

SETTINGS = ChatSettings("古文", 0.5, "alpaca", "你是诗人。", Sampling(seed=4, stop=("。",)))
RUN = GenerationRun(SETTINGS, "base", "int4", "abc", FinishReason.STOP, completion_tokens=9)
CHAT = Chat("chat", "夜 *思*", 10.0, 20.0, "q2", SETTINGS)
CHAT_WITHOUT_HEAD = replace(CHAT, head=None)


def message(name: str, parent: str | None, text: str, **fields: Any) -> ChatMessage:
    role: Any = "user" if name.startswith("q") else "assistant"
    return ChatMessage(name, parent, role, text, created=11.0, **fields)


MESSAGES = {
    sample.id: sample
    for sample in (
        message("q1", None, "写一首诗 🦙\n\n# 标题"),
        message("a1", "q1", "床前明月光", comparison="c", runs=(RUN,)),
        message("a2", "q1", "春眠不觉晓", comparison="c", state=MessageState.CUT, runs=(RUN, RUN)),
        message("a3", "q1", "", comparison="c", state=MessageState.FAILED, error="It broke."),
        message("q2", "a1", "</s> 再来"),
        message("a4", "q2", "举头", state=MessageState.STREAMING, runs=(RUN,)),
        message("a5", "q2", "举头", repeats="a4"),
        message("q0", None, "换一个开头"),
    )
}
VOTE = Vote("c", "chat", "a1", 12.0)
EXPORTED: ChatParts = (CHAT, [VOTE], MESSAGES.values())


def to_json(chats: Iterable[ChatParts]) -> str:
    return "".join(json_parts(chats))


def from_json(text: str) -> list[ImportedChat]:
    return list(read_chats(text))


def with_old_ids(imported: ImportedChat) -> ImportedChat:
    """Returns the chat with the ids of `MESSAGES`; checks that its own are new and different."""
    names = dict(zip([m.id for m in imported.messages], MESSAGES, strict=True))
    new_ids = {*names, imported.chat.id, *(m.comparison for m in imported.messages)} - {None}
    assert len(new_ids) == len(MESSAGES) + 2
    assert not new_ids & {*MESSAGES, "c", "chat"}

    def old(name: str | None) -> str | None:
        return None if name is None else names[name]

    messages = tuple(
        replace(
            m, id=names[m.id], parent=old(m.parent), repeats=old(m.repeats),
            comparison=m.comparison and "c",
        )
        for m in imported.messages
    )  # fmt: skip
    votes = tuple(
        replace(v, chat="chat", comparison="c", winner=old(v.winner)) for v in imported.votes
    )
    return ImportedChat(replace(imported.chat, id="chat", head=old(imported.chat.head)),
                        messages, votes)  # fmt: skip


def test_imported_export_is_as_it_was(tmp_path: Path) -> None:
    text = to_json([EXPORTED, EXPORTED])
    assert "写一首诗 🦙" in text
    imported = from_json(text)
    expected = {**MESSAGES, "a4": replace(MESSAGES["a4"], state=MessageState.INTERRUPTED)}
    for chat_of_file in imported:
        assert with_old_ids(chat_of_file) == ImportedChat(CHAT, tuple(expected.values()), (VOTE,))
    with closing(ChatStore(tmp_path / "chats.db")) as store:
        stored = store.import_chats("mei", imported)
        for chat, chat_of_file in zip(stored, imported, strict=True):
            assert chat == chat_of_file.chat == store.chat("mei", chat.id)
            assert tuple(store.messages("mei", chat.id).values()) == chat_of_file.messages
        votes = store.votes("mei")
        assert sorted(v.chat for v in votes) == sorted(chat.id for chat in stored)
        again = from_json("".join(export_chats(store, "mei")))
    assert list(map(with_old_ids, again)) == list(map(with_old_ids, imported))


def test_streaming_reply_is_interrupted_in_a_file() -> None:
    """As it is written, and as it is read."""
    text = to_json([EXPORTED])
    assert "streaming" not in text
    edited = from_json(text.replace('"state": "interrupted"', '"state": "streaming"'))
    states = [message.state for message in edited[0].messages]
    assert MessageState.INTERRUPTED in states
    assert MessageState.STREAMING not in states


@pytest.mark.parametrize("reason", ["short", "long " * 100])
def test_error_is_imported_with_its_code_or_as_a_sentence(reason: str) -> None:
    """The JSON of a long one was cut, and shown as it was."""
    error = LocalizedText("db_error", {"place": "chats", "error": reason})
    failed = message("a", None, "", state=MessageState.FAILED, error=error.dump())
    (chat,) = from_json(to_json([(CHAT_WITHOUT_HEAD, (), [failed])]))
    (imported,) = chat.messages
    shown = load_text(imported.error).full()
    assert shown == error.full()[: import_models.MAX_ERROR]
    assert (imported.error == error.dump()) == (reason == "short")


def test_list_of_exports_is_read() -> None:
    text = to_json([EXPORTED])
    assert len(from_json(f"[{text}, {text}, {json.dumps(OPENAI)}]")) == 3


def test_future_time_is_now() -> None:
    late = replace(CHAT, created=1e300, updated=1e300, head=None)
    chat = from_json(to_json([(late, [], ())]))[0].chat
    assert chat.created <= chat.updated <= time.time()


TURNS = [("system", "Be brief."), ("user", "Hello\n\nthere"), ("assistant", "Hi.")]
OPENAI: dict[str, Any] = {"messages": [{"role": role, "content": text} for role, text in TURNS]}
NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
SHAREGPT: dict[str, Any] = {
    "id": "x",
    "conversations": [{"from": NAMES[role], "value": text} for role, text in TURNS],
}


@pytest.mark.parametrize("value", [OPENAI, SHAREGPT], ids=["openai", "sharegpt"])
def test_files_of_other_programs_are_read(value: dict[str, Any]) -> None:
    one, two = from_json(json.dumps([value, {**value, "title": "Named"}]))
    assert two.chat.title == "Named"
    assert one.chat.title == "Hello"
    assert one.chat.settings == ChatSettings(system="Be brief.")
    question, reply = one.messages
    assert (question.role, question.text, question.parent) == ("user", "Hello\n\nthere", None)
    assert (reply.role, reply.text, reply.parent) == ("assistant", "Hi.", question.id)
    assert one.chat.head == reply.id
    assert abs(one.chat.updated - time.time()) < 60
    assert {m.id for m in one.messages}.isdisjoint(m.id for m in two.messages)


VARIANTS: dict[str, dict[str, Any]] = {
    "parts": {"messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello\n"},
                                     {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Hi."}]},
    "developer": {"messages": [
        {"role": "developer", "content": "Be brief."}, *OPENAI["messages"][1:]]},
    "capitals": {"conversations": [
        {"from": "System", "value": "Be brief."},
        {"from": "Human", "value": "Hello\n\nthere"}, {"from": "GPT", "value": "Hi."}]},
}  # fmt: skip


@pytest.mark.parametrize("value", VARIANTS.values(), ids=VARIANTS)
def test_variants_of_other_programs_are_read(value: dict[str, Any]) -> None:
    (chat,) = from_json(json.dumps(value))
    assert chat.chat.settings.system == "Be brief."
    assert [m.text for m in chat.messages] == ["Hello\n\nthere", "Hi."]
    assert [m.role for m in chat.messages] == ["user", "assistant"]


def test_export_with_fields_in_another_order_is_read() -> None:
    """If format and version follow the chats, these are read at the end."""
    value = changed()
    backwards = dict(reversed(value.items()))
    assert list(backwards) == ["chats", "version", "format"]
    (chat,) = from_json(json.dumps(backwards))
    assert [m.text for m in chat.messages] == [m.text for m in MESSAGES.values()]


def test_last_vote_of_a_comparison_counts() -> None:
    """A file full of votes would be as many statements for the database."""
    votes = [{"comparison": "c", "winner": winner} for winner in ("a1", None, "a2")]
    (chat,) = from_json(json.dumps(changed(votes=votes)))
    assert [vote.winner for vote in chat.votes] == [chat.messages[2].id]


def test_lone_surrogates_are_replaced() -> None:
    (chat,) = from_json('{"messages": [{"role": "user", "content": "a\\ud83d"}]}')
    assert chat.messages[0].text == "a�"
    assert chat.chat.title == "a�"


def changed(**changes: Any) -> dict[str, Any]:
    """Returns an export with changed fields of its chat; None counts as missing."""
    value: dict[str, Any] = json.loads(to_json([EXPORTED]))
    value["chats"][0] |= changes
    return value


def with_message(number: int, **changes: Any) -> dict[str, Any]:
    value = changed()
    value["chats"][0]["messages"][number] |= changes
    return value


def turn(role: Any, content: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}]}


INVALID = {
    "nothing": "",
    "no JSON": "hello",
    "half a file": to_json([EXPORTED])[:-20],
    "too deep": "[" * 200_000,
    "deep objects": '{"a":' * 200_000,
    "NaN": '{"messages": [{"role": "user", "content": "x"}], "other": NaN}',
    "infinity": '{"messages": [{"role": "user", "content": "x"}], "other": [-Infinity]}',
    "a number of many digits": "1" * 10_000,
    "null": "null",
    "a number": "1",
    "a string": '"messages"',
    "an empty list": "[]",
    "no chats": {"format": "linly-chats", "version": 1, "chats": []},
    "numbers in a list": [1, 2],
    "an empty object": {},
    "no list": {"messages": {}},
    "no turns": {"messages": []},
    "only a system prompt": turn("system", "s"),
    "a turn that is none": {"messages": ["hello"]},
    "an unknown role": turn("tool", "x"),
    "a role that is no text": turn(["user"], "x"),
    "content that is an object": turn("user", {"type": "text", "text": "x"}),
    "a part of no type": turn("user", [{"text": "x"}]),
    "a part that is none": turn("user", ["x"]),
    "a part without text": turn("user", [{"type": "text"}]),
    "no content": turn("assistant", None),
    "an unknown speaker": {"conversations": [{"from": "bing", "value": "x"}]},
    "a title that is no text": {**OPENAI, "title": 1},
    "another format": {**changed(), "format": "other"},
    "a format that is no text": {**changed(), "format": []},
    "a newer version": {**changed(), "version": 2},
    "no version": {**changed(), "version": None},
    "a version that is no number": {**changed(), "version": True},
    "a chat that is none": {**changed(), "chats": [1]},
    "no title": changed(title=None),
    "no messages": changed(messages=None),
    "a head that is missing": changed(head="gone"),
    "a time that is none": changed(created="today"),
    "a time before all": changed(updated=-1),
    "settings that are none": changed(settings=[]),
    "a setting that is wrong": changed(settings={"scale": "big"}),
    "a temperature that is wrong": changed(settings={"sampling": {"temperature": -1}}),
    "votes that are none": changed(votes={}),
    "a vote that is none": changed(votes=[1]),
    "a vote about nothing": changed(votes=[{"comparison": "gone", "winner": None}]),
    "a winner that is missing": changed(votes=[{"comparison": "c", "winner": "gone"}]),
    "a winner from elsewhere": changed(votes=[{"comparison": "c", "winner": "a5"}]),
    "a message without id": with_message(0, id=None),
    "an empty id": with_message(0, id=""),
    "an id twice": with_message(7, id="q1"),
    "a missing parent": with_message(4, parent="gone"),
    "its own parent": with_message(0, parent="q1"),
    "a circle": with_message(0, parent="q2"),
    "a parent that is no text": with_message(4, parent=1),
    "unknown role": with_message(0, role="tool"),
    "no text": with_message(0, text=None),
    "a text that is none": with_message(0, text=["x"]),
    "an unknown state": with_message(0, state="thinking"),
    "a comparison that is no text": with_message(0, comparison=1),
    "runs that are none": with_message(0, runs="x"),
    "a run that is none": with_message(0, runs=[1]),
    "a run that is wrong": with_message(0, runs=[{"reason": "bored"}]),
    "a number beyond all": '{"messages": [], "format": "linly-chats", "version": 1e999}',
}  # fmt: skip


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID)
def test_invalid_file_is_refused(invalid: Any) -> None:
    text = invalid if isinstance(invalid, str) else json.dumps(invalid)
    with pytest.raises(RequestError) as caught:
        from_json(text)
    assert caught.value.message
    assert "\n" not in str(caught.value)


def test_invalid_files_are_made_from_valid_ones() -> None:
    """Otherwise each of them might be refused for another reason than its own."""
    assert from_json(json.dumps(changed()))
    assert from_json(json.dumps(with_message(0)))
    assert from_json(json.dumps(turn("user", "x")))


def test_file_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = OPENAI["messages"][1:2]
    most = import_models.MAX_CHAT_MESSAGES
    assert most == 10_000
    assert len(from_json(json.dumps({"messages": turns * most}))[0].messages) == most
    for value in ({"messages": turns * (most + 1)}, {"conversations": turns * (most + 1)}):
        with pytest.raises(RequestError, match="more than 10000 messages"):
            from_json(json.dumps(value))
    monkeypatch.setattr(import_file, "MAX_CHATS", 2)
    assert from_json(json.dumps([OPENAI] * 2))
    with pytest.raises(RequestError, match="more than 2 chats"):
        from_json(json.dumps([OPENAI] * 3))
    monkeypatch.setattr(import_file, "MAX_MESSAGES", 3)
    with pytest.raises(RequestError, match="or 3 messages"):
        from_json(json.dumps([OPENAI] * 2))
    monkeypatch.setattr(import_file, "MAX_JSON", 10)
    with pytest.raises(RequestError, match="larger than"):
        from_json(json.dumps(OPENAI))


def test_markdown_has_the_branch() -> None:
    branch = [MESSAGES["q1"], MESSAGES["a1"], replace(MESSAGES["a5"], text="  举头\n")]
    assert "".join(markdown_parts(CHAT, branch)) == (
        "# 夜 *思*\n\n## System\n\n你是诗人。\n\n## User\n\n写一首诗 🦙\n\n# 标题\n\n"
        "## Assistant (古文)\n\n床前明月光\n\n## Assistant\n\n  举头\n\n"
    )


def test_file_name_has_only_letters_and_digits() -> None:
    names = {
        "夜思: 1/2": "夜思-1-2",
        "../../etc/passwd": "etc-passwd",
        "🦙": "chat",
        "x" * 99: "x" * 60,
        'a"\r\nb': "a-b",
    }
    assert {title: file_name(replace(CHAT, title=title)) for title in names} == names


def pairs(*votes: Vote, messages: dict[str, ChatMessage] = MESSAGES) -> list[dict[str, Any]]:
    return [json.loads(line) for line in pair_parts(messages, votes)]


def test_pair_is_made_of_winner_and_loser() -> None:
    """The reply that failed is in no pair."""
    assert pairs(VOTE) == [
        {
            "prompt": [
                {"role": "system", "content": "你是诗人。"},
                {"role": "user", "content": "写一首诗 🦙\n\n# 标题"},
            ],
            "chosen": [{"role": "assistant", "content": "床前明月光"}],
            "rejected": [{"role": "assistant", "content": "春眠不觉晓"}],
        }
    ]


def test_each_loser_makes_a_pair() -> None:
    third = replace(MESSAGES["a3"], state=MessageState.DONE, text="三")
    found = pairs(VOTE, messages={**MESSAGES, "a3": third})
    assert [pair["rejected"][0]["content"] for pair in found] == ["春眠不觉晓", "三"]
    assert {pair["chosen"][0]["content"] for pair in found} == {"床前明月光"}


@pytest.mark.parametrize("winner", [None, "a3", "gone", "q1"])
def test_vote_without_a_complete_winner_makes_no_pair(winner: str | None) -> None:
    assert pairs(replace(VOTE, winner=winner)) == []


def test_equal_replies_make_no_pair() -> None:
    same = replace(MESSAGES["a2"], text=MESSAGES["a1"].text)
    assert pairs(VOTE, messages={**MESSAGES, "a2": same}) == []


def test_prompt_of_a_pair_is_the_branch() -> None:
    """With the messages before the question, but without empty replies."""
    rivals = [message(name, "q2", name, comparison="d") for name in ("a8", "a9")]
    messages = {**MESSAGES, **{rival.id: rival for rival in rivals}}
    (pair,) = pairs(Vote("d", "chat", "a9", 1.0), messages=messages)
    assert [turn["role"] for turn in pair["prompt"]] == ["user", "assistant", "user"]
    assert pair["prompt"][1]["content"] == "床前明月光"
    messages["a1"] = replace(messages["a1"], text="")
    (pair,) = pairs(Vote("d", "chat", "a9", 1.0), messages=messages)
    assert [turn["role"] for turn in pair["prompt"]] == ["user", "user"]
