"""Whatever a browser may send: one sentence, never a fault."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from web.ui.wishes import MOST_SYSTEM

from tests.fake import FakeEngine, echo, fake_manager
from tests.web.handmade import Caller, said
from tests.web.serving import serving
from web.chats.errors import StoreError
from web.chats.replies import Replies
from web.chats.store import ChatStore

UNKNOWN = "The page asked for something unknown"
MISSING = "This chat is not here"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager) as url:
        yield url


@pytest.fixture
def caller(url: str) -> Iterator[Caller]:
    with Caller(url) as caller:
        yield caller


@pytest.fixture(autouse=True)
def no_stack_trace(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    caplog.set_level(logging.WARNING, logger="web")
    yield
    assert [record for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in capfd.readouterr().err


KINDS = (
    "edit", "regenerate", "continue", "again", "branch", "side_by_side", "choose", "vote", "open",
    "search", "rename", "delete", "undo", "export", "export_all", "pairs", "import",
)  # fmt: skip


@pytest.mark.parametrize(
    "event", [None, {}, [], "edit", 7, {"kind": None}, {"kind": 7}, {"kind": "nonsense"},
              {"kind": ["edit"]}, {"kind": "__init__"}],
)  # fmt: skip
def test_no_action(caller: Caller, event: Any) -> None:
    assert said(caller.act(event)).startswith(UNKNOWN)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, 7, ["x"], {"x": 1}, True])
def test_values_of_another_kind(caller: Caller, kind: str, value: Any) -> None:
    keys = ("id", "text", "title", "winner", "comparison", "format")
    answer = said(caller.act({"kind": kind, **dict.fromkeys(keys, value)}))
    assert answer or kind == "export_all"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", ["", "x", "../../etc/passwd", "'; DROP TABLE chats; --", "\0"])
def test_ids_of_nothing(caller: Caller, kind: str, number: str) -> None:
    keys = ("id", "text", "title", "winner", "comparison", "format")
    answer = said(caller.act({"kind": kind, **dict.fromkeys(keys, number)}))
    assert answer or kind in ("export_all", "search", "open")


def exported(caller: Caller) -> list[dict[str, Any]]:
    """All of somebody's chats."""
    text = caller.act({"kind": "export_all"}).json()["data"][0]["download"]["text"]
    chats: list[dict[str, Any]] = json.loads(text)["chats"]
    return chats


def begin(caller: Caller, text: str) -> list[str]:
    """A chat with a reply; the ids of its messages."""
    assert said(caller.call("send", text, *caller.wishes)) == ""
    while not (chats := exported(caller)) or chats[0]["messages"][-1]["state"] != "done":
        time.sleep(0.02)
    return [message["id"] for message in chats[0]["messages"]]


def test_ids_of_others(url: str) -> None:
    """Known by a link that leaked, say."""
    with Caller(url, "anna") as anna, Caller(url, "mallory") as mallory:
        messages = begin(anna, "secret")
        begin(mallory, "hello")
        for kind in ("edit", "regenerate", "again", "branch", "side_by_side", "choose"):
            for number in messages:
                answer = mallory.act({"kind": kind, "id": number, "text": "mine"})
                assert said(answer).startswith(MISSING)
                assert "secret" not in answer.text
        assert len(exported(anna)[0]["messages"]) == 2


@pytest.mark.parametrize("session", ["anna", None])
def test_the_session_of_somebody_else_opens_nothing(url: str, session: str | None) -> None:
    """A page makes its session's name up, and may leave it out: that alone let others in."""
    with Caller(url, "anna") as anna, Caller(url, "anna") as mallory:
        anna.session = mallory.session = session
        messages = begin(anna, "secret")
        for event in (
            {"kind": "export", "format": "json"},
            {"kind": "export_all"},
            {"kind": "regenerate", "id": messages[1]},
        ):
            assert "secret" not in mallory.act(event).text
        assert said(mallory.act({"kind": "export", "format": "json"})).startswith(
            "There is no chat"
        )


def test_huge_texts(caller: Caller) -> None:
    huge = "长" * 1_000_000  # 3 MB
    messages = begin(caller, "hello")
    edited = caller.act({"kind": "edit", "id": messages[0], "text": huge})
    assert said(edited).startswith("The text is longer than 2 MB")
    assert said(caller.call("send", huge, *caller.wishes)).startswith("The text is longer")
    assert said(caller.act({"kind": "search", "text": huge})) == ""
    titled = {"kind": "rename", "id": "x", "title": huge}
    assert said(caller.act(titled)).startswith("The title has over 200 characters")
    imported = {"kind": "import", "text": "[" * 100_000}
    assert said(caller.act(imported))
    saved = caller.call("save_snippet", "x" * 100, "text")
    assert said(saved).startswith("A name has 1 to 60 characters")


def test_the_last_part_of_a_file_is_shown(caller: Caller) -> None:
    """Whichever came last was, also of a file that came in many parts at once."""
    for at, more in enumerate([True, True, False, True]):
        chat = {"title": f"part {at}", "messages": [{"role": "user", "content": "hello"}]}
        event = {"kind": "import", "text": json.dumps(chat), "more": more}
        assert said(caller.act(event)) == ""
    shown = caller.act({"kind": "export", "format": "markdown"}).json()["data"][0]["download"]
    assert shown["text"].startswith("# part 2")
    assert len(exported(caller)) == 4


def test_a_chat_whose_first_question_failed_takes_the_controls(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat was there, and ignored from then on what was chosen for it."""
    begin_reply = Replies.begin

    def once(*args: Any, **named: Any) -> Any:
        monkeypatch.setattr(Replies, "begin", begin_reply)
        raise StoreError("The disk is full")

    monkeypatch.setattr(Replies, "begin", once)
    assert said(caller.call("send", "hello", *caller.wishes)) == "The disk is full"
    assert said(caller.call("send", "hello", *caller.with_adapter("pirate"))) == ""
    (chat,) = exported(caller)
    assert chat["messages"][-1]["runs"][0]["settings"]["adapter"] == "pirate"


def test_a_disk_that_is_gone(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence, from whatever is asked."""
    begin(caller, "hello")

    def gone(*args: Any) -> None:
        raise StoreError("The chats cannot be read: the disk is gone")

    monkeypatch.setattr(ChatStore, "chat", gone)
    for handler, data in (("send", ["again"]), ("keep_settings", []), ("regenerate", [])):
        answer = said(caller.call(handler, *data, *caller.wishes))
        assert answer.startswith("The chats cannot be read")


def test_controls_of_another_chat_are_put_right(caller: Caller) -> None:
    """Answers can overtake each other: the controls then stayed another chat's."""
    begin(caller, "first")
    first = caller.of
    caller.call("new_chat")
    caller.call("send", "second", *caller.with_adapter("pirate"))
    second = caller.of
    assert first != second
    for handler, data in (("keep_settings", []), ("send", ["again"])):
        caller.of = first
        answer = caller.call(handler, *data, *caller.with_adapter("linly"))
        assert said(answer) == ""
        assert caller.of == second
        adapter = next(v for v in answer.json()["data"] if isinstance(v, dict) and "choices" in v)
        assert adapter["value"] == "pirate"
        while any(chat["messages"][-1]["state"] == "interrupted" for chat in exported(caller)):
            time.sleep(0.02)
    settings = {chat["title"]: chat["settings"]["adapter"] for chat in exported(caller)}
    assert settings == {"second": "pirate", "first": "linly"}


def test_a_system_prompt_that_no_context_holds(caller: Caller) -> None:
    wishes = [*caller.wishes]
    wishes[3] = "x" * (MOST_SYSTEM + 1)
    assert said(caller.call("send", "hi", *wishes)).startswith("The system prompt is longer than")
    assert exported(caller) == []


TEXTS, NUMBERS = (0, 2, 3), (1, *range(4, 11))  # where the wishes are what


@pytest.mark.parametrize(
    ("at", "value"),
    [(at, value) for at in TEXTS for value in (7, ["x"], {"x": 1}, True)]
    + [(at, value) for at in NUMBERS for value in ("nonsense", ["x"], {"x": 1}, math.inf)],
)
def test_settings_of_another_kind(caller: Caller, at: int, value: Any) -> None:
    """They ended as errors of Gradio's, which the server answers with status 500."""
    wishes = [*caller.wishes]
    wishes[at] = value
    answer = said(caller.call("send", "hello", *wishes))
    assert answer
    assert exported(caller) == []


@pytest.mark.parametrize("value", [None, 7, ["x"], {"x": 1}])
def test_controls_of_another_kind(caller: Caller, value: Any) -> None:
    for handler, count in (("save_preset", 1), ("save_snippet", 2), ("delete_snippet", 1),
                           ("delete_preset", 1)):  # fmt: skip
        wishes = caller.wishes if handler == "save_preset" else []
        assert said(caller.call(handler, *[value] * count, *wishes))
    said(caller.call("use_snippet", value, value))
    said(caller.call("send", value, *caller.wishes))
    assert said(caller.call("compare", value, *[value] * 8, *caller.wishes))
    assert caller.call("preset", value).status_code == 200
