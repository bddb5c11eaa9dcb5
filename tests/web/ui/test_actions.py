"""Requests to the page's actions by hand: invalid ones get a sentence, never a fault."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from model.translations import verbatim
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.page_client import Caller, error_of, shown_message
from web import page_middleware
from web.chats.reply_generator import ReplyGenerator
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.ui.form_values import MAX_SYSTEM

MISSING = "This chat does not exist"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr(page_middleware, "VISITOR_BURST", 100_000)  # one visitor sends all of these
        with serving(manager) as url:
            yield url


@pytest.fixture
def caller(url: str) -> Iterator[Caller]:
    with Caller(url) as caller:
        yield caller


@pytest.fixture(scope="module")
def silent(url: str) -> Iterator[Caller]:
    """A visitor none of whose requests may create a chat."""
    with Caller(url) as caller:
        yield caller
        assert caller.chats() == []


@pytest.fixture(autouse=True)
def no_stack_trace(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Any:
    caplog.set_level(logging.WARNING, logger="web")
    yield
    assert [record for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in capfd.readouterr().err


# The fields of each action, beside the form.
FIELDS: dict[str, tuple[str, ...]] = {
    "edit": ("id", "text"), "regenerate": ("id",), "continue": ("id",), "again": ("id",),
    "branch": ("id",), "side_by_side": ("id",), "choose": ("id",), "open": ("id",),
    "vote": ("comparison", "winner"), "search": ("text",), "rename": ("id", "title"),
    "delete": ("id",), "undo": ("id",),
}  # fmt: skip
WITH_FORM = ("edit", "regenerate", "continue")


def act(caller: Caller, kind: str, value: Any) -> httpx.Response:
    """Posts an action with one value for all of its fields."""
    form = {"form": caller.form} if kind in WITH_FORM else {}
    return caller.call(kind, **dict.fromkeys(FIELDS[kind], value), **form)


@pytest.mark.parametrize("kind", ["nonsense", "__init__", "Send", "do", "known"])
def test_unknown_actions_are_refused(silent: Caller, kind: str) -> None:
    answer = silent.call(kind)
    assert error_of(answer)[0] == 404


@pytest.mark.parametrize("body", ["null", "[]", '"edit"', "7", "", "{", "nonsense"])
@pytest.mark.parametrize("kind", [*FIELDS, "send", "settings", "compare"])
def test_actions_refuse_bodies_that_are_no_object(silent: Caller, kind: str, body: str) -> None:
    assert error_of(silent.post(f"/page/actions/{kind}", body))[0] == 400


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("value", [None, 7, ["x"], {"x": 1}, True])
def test_actions_refuse_values_of_another_type(silent: Caller, kind: str, value: Any) -> None:
    answer = act(silent, kind, value)
    assert shown_message(answer)
    assert 400 <= answer.status_code < 500


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("number", ["", "x", "../../etc/passwd", "'; DROP TABLE chats; --", "\0"])
def test_actions_refuse_unknown_ids(silent: Caller, kind: str, number: str) -> None:
    answer = shown_message(act(silent, kind, number))
    assert answer or kind == "search" or (kind, number) == ("open", "")


@pytest.mark.parametrize("kind", [*FIELDS, "stop", "new_chat", "language"])
def test_actions_refuse_unknown_fields(silent: Caller, kind: str) -> None:
    """A page of another version, or a guess: an unknown field is not ignored."""
    form = {"form": silent.form} if kind in WITH_FORM else {}
    fields = dict.fromkeys(FIELDS.get(kind, ()), "x")
    answer = silent.call(kind, **fields, **form, owner="browser:anna")
    assert error_of(answer)[0] == 400


def test_actions_refuse_ids_of_other_visitors(url: str) -> None:
    """They may be known from a leaked link."""
    with Caller(url) as anna, Caller(url) as mallory:
        messages = anna.begin("secret")
        mallory.begin("hello")
        for kind in ("edit", "regenerate", "again", "branch", "side_by_side", "choose"):
            for number in messages:
                answer = act(mallory, kind, number)
                assert shown_message(answer).startswith(MISSING)
                assert answer.status_code == 404
                assert "secret" not in answer.text
        chat = anna.form["loaded_chat"]
        for kind in ("open", "rename", "delete", "undo"):
            assert shown_message(act(mallory, kind, chat)).startswith(MISSING)
        assert len(anna.chats()[0]["messages"]) == 2


def attempts(mallory: Caller, messages: list[str]) -> Iterator[httpx.Response]:
    yield mallory.export("json")
    yield mallory.export("markdown")
    yield mallory.export("all")
    yield mallory.call("regenerate", id=messages[1], form=mallory.form)
    yield mallory.call("regenerate", form=mallory.form)
    yield mallory.call("branch", id=messages[0])


def test_the_tab_id_of_another_visitor_gives_no_access(url: str) -> None:
    """The leaked id of an open tab, used with another cookie or without one."""
    with Caller(url) as anna:
        messages = anna.begin("secret")
        for known in (True, False):
            with Caller(url, tab=anna.tab, known=known) as mallory:
                for answer in attempts(mallory, messages):
                    assert "secret" not in answer.text
                assert shown_message(mallory.export("json"))
                shown_message(mallory.call("new_chat"))
                shown_message(mallory.call("language", language="zh"))
        assert "secret" in anna.export("json").text
        assert shown_message(anna.call("new_chat")) == ""


@pytest.mark.parametrize("tab", ["", "x" * 201])
def test_requests_without_a_tab_are_refused(url: str, tab: str) -> None:
    with Caller(url, tab=tab) as caller:
        assert error_of(caller.send("hello"))[0] == 400
        caller.tab = None
        assert error_of(caller.send("hello"))[0] == 400
        caller.tab = "x"
        assert caller.chats() == []


def test_a_tab_without_stream_continues_in_the_chat_it_names(url: str) -> None:
    """After a restart of the server, a message goes to the chat that the tab shows."""
    with Caller(url) as caller:
        caller.begin("first")
        chat = caller.form["loaded_chat"]
        caller.close_stream()
        caller.headers["X-Linly-Chat"] = chat
        answer = caller.send("second")
        assert (shown_message(answer), answer.json()["lost"], answer.json()["chat"]) == (
            "",
            True,
            chat,
        )
        caller.answered()
        (only,) = caller.chats()
        assert [one["text"] for one in only["messages"]][::2] == ["first", "second"]
        caller.headers["X-Linly-Chat"] = "of somebody else"
        assert shown_message(caller.send("third")).startswith(MISSING)


def test_a_message_may_be_the_first_request_to_a_server(tmp_path: Any) -> None:
    """A tab from before a restart posted before its stream was open: the reply began in a thread
    without an event loop."""
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, data=tmp_path) as url, Caller(url, tab="from-before") as caller:
        caller.begin("hello")
        (chat,) = caller.chats()
        assert chat["messages"][-1]["text"] == "base heard: hello "


def test_without_a_cookie_only_the_stream_identifies_a_visitor(url: str) -> None:
    """A post without cookie and stream would create a chat that belongs to no visitor."""
    with Caller(url, known=False) as caller:
        caller.begin("hello")
        with Caller(url, known=False) as other:
            other.begin("hi")
            assert len(other.chats()) == len(caller.chats()) == 1
        for tab in ("made-up", other.tab):
            with Caller(url, tab=tab, known=False) as stranger:
                assert error_of(stranger.send("hello")) == (409, "lost_tab")
                assert error_of(stranger.import_text('{"messages": []}')) == (409, "lost_tab")
                assert error_of(stranger.export("all")) == (409, "lost_tab")
        caller.headers["X-Linly-Language"] = "zh"
        caller.tab = "made-up"
        assert shown_message(caller.call("stop")) == "此标签页的连接已断开。请稍后再试。"


def test_actions_refuse_huge_texts(caller: Caller) -> None:
    huge = "长" * 1_000_000  # 3 MB
    messages = caller.begin("hello")
    edited = caller.call("edit", id=messages[0], text=huge, form=caller.form)
    assert shown_message(edited).startswith("The text is longer than 2 MB")
    assert shown_message(caller.send(huge)).startswith("The text is longer")
    assert shown_message(caller.send("x" * 2_000_001)).startswith("A text is too long")
    assert caller.send("x" * 5_000_001).status_code == 413
    assert shown_message(caller.call("search", text="长" * 10_000)) == ""
    assert (
        shown_message(caller.call("search", text="长" * 10_001))
        == "A text is too long. Reload the page."
    )
    assert caller.call("search", text=huge).status_code == 413
    titled = caller.call("rename", id="x", title="长" * 201)
    assert shown_message(titled).startswith("The title has more than 200 characters")
    assert shown_message(caller.import_text("[" * 100_000))
    assert caller.import_text(" " * 5_000_001).status_code == 413
    saved = caller.call("save_snippet", name="x" * 100, message="text")
    assert shown_message(saved).startswith("A name must have 1 to 60 characters")
    assert len(caller.chats()) == 1


def test_import_opens_the_last_part_of_a_file(caller: Caller) -> None:
    """The part that arrived last was shown, although the parts arrived in any order."""
    for at, more in enumerate([True, True, False, True]):
        chat = {"title": f"part {at}", "messages": [{"role": "user", "content": "hello"}]}
        assert shown_message(caller.import_text(json.dumps(chat), more)) == ""
    assert caller.export("markdown").text.startswith("# part 2")
    assert len(caller.chats()) == 4


def test_import_refuses_files_that_are_no_text(caller: Caller) -> None:
    assert (
        shown_message(caller.import_text(b"\xff\xfe\x00"))
        == "The file is not UTF-8 text. Save it as UTF-8."
    )
    chat = b'{"messages": [{"role": "user", "content": "x"}]}'
    assert shown_message(caller.import_text(b"\xef\xbb\xbf" + chat)) == ""


def test_import_tells_what_was_left_out(caller: Caller) -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    parts = [{"type": "text", "text": "What is this?"}, image, image]
    chat = {"messages": [{"role": "user", "content": parts}]}
    for more in (True, False):
        response = caller.import_text(json.dumps(chat), more)
        assert response.json()["left_out"] == {"images": 2}


def test_a_chat_whose_first_question_failed_has_its_controls(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat existed, and ignored later changes of its controls."""
    begin_reply = ReplyGenerator.begin

    def once(*args: Any, **named: Any) -> Any:
        monkeypatch.setattr(ReplyGenerator, "begin", begin_reply)
        raise StoreError(verbatim("The disk is full"))

    monkeypatch.setattr(ReplyGenerator, "begin", once)
    assert shown_message(caller.send("hello")) == "The disk is full."
    assert shown_message(caller.send("hello", adapter="pirate")) == ""
    caller.answered()
    (chat,) = caller.chats()
    assert chat["messages"][-1]["runs"][0]["settings"]["adapter"] == "pirate"


def test_actions_report_a_store_that_cannot_be_read(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every action returns a sentence."""
    caller.begin("hello")

    def gone(*args: Any) -> None:
        raise StoreError(verbatim("The chats cannot be read: the disk is gone"))

    monkeypatch.setattr(ChatStore, "chat", gone)
    for kind, values in (("send", {"text": "again"}), ("settings", {}), ("regenerate", {})):
        answer = caller.call(kind, **values, form=caller.form)
        assert answer.json()["error"]["message"].startswith("The chats cannot be read")
        assert answer.status_code == StoreError.http_status


def test_controls_of_another_chat_are_corrected(caller: Caller) -> None:
    """Responses can overtake each other: the controls kept another chat's settings."""
    caller.begin("first")
    first = caller.form["loaded_chat"]
    caller.call("new_chat")
    assert caller.form["loaded_chat"] == ""
    caller.send("second", adapter="pirate")
    second = caller.form["loaded_chat"]
    assert first != second
    for kind, values in (("settings", {}), ("send", {"text": "again"})):
        caller.answered()
        form = caller.form_with(loaded_chat=first, adapter="linly")
        answer = caller.call(kind, **values, form=form)
        assert shown_message(answer) == ""
        assert caller.form["loaded_chat"] == second
        (adapter,) = (
            properties for _, properties in answer.json()["controls"]
            if ["● pirate: Talks like a pirate", "pirate"] in properties.get("choices", [])
            and "value" in properties
        )  # fmt: skip
        assert adapter["value"] == "pirate"
    caller.answered()
    settings = {chat["title"]: chat["settings"]["adapter"] for chat in caller.chats()}
    assert settings == {"second": "pirate", "first": "linly"}


def test_send_refuses_a_huge_system_prompt(caller: Caller) -> None:
    assert shown_message(caller.send("hi", system="x" * (MAX_SYSTEM + 1))).startswith(
        "A text is too long"
    )
    assert caller.chats() == []


TEXTS = ("loaded_chat", "adapter", "template", "system")
NUMBERS = (
    "scale", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "seed"
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in TEXTS for value in (7, ["x"], {"x": 1}, True)]
    + [(name, value) for name in NUMBERS
       for value in ("nonsense", "1", ["x"], {"x": 1}, True, math.inf, math.nan, 10**400)],
)  # fmt: skip
def test_forms_refuse_values_of_another_type(silent: Caller, name: str, value: Any) -> None:
    for kind, values in (("send", {"text": "hello"}), ("settings", {})):
        answer = silent.call(kind, **values, form=silent.form_with(**{name: value}))
        assert error_of(answer)[0] == 400


@pytest.mark.parametrize("name", ["temperature", "top_p", "top_k", "min_p", "repetition_penalty"])
def test_send_refuses_a_missing_number(silent: Caller, name: str) -> None:
    answer = silent.send("hello", **{name: None})
    assert shown_message(answer).startswith("A number in the settings is missing")


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in NUMBERS for value in (-1e300, 1e300) if name != "seed"]
    + [("seed", 1e300)],
)
def test_send_refuses_a_number_out_of_range(caller: Caller, name: str, value: float) -> None:
    answer = caller.send("hello", **{name: value})
    if answer.status_code == 200:  # then the reply shows the error
        deadline = time.monotonic() + 60
        while caller.chats()[0]["messages"][-1]["state"] == "interrupted":
            assert time.monotonic() < deadline
            time.sleep(0.02)
    else:
        assert error_of(answer)[0] in (400, 422)


@pytest.mark.parametrize("value", [7, ["x"], {"x": 1}])
def test_library_actions_refuse_values_of_another_type(silent: Caller, value: Any) -> None:
    for kind, values in (
        ("save_preset", {"name": value, "form": silent.form}),
        ("save_snippet", {"name": value, "message": value}),
        ("delete_snippet", {"name": value}),
        ("delete_preset", {"name": value}),
        ("use_snippet", {"name": value}),
        ("send", {"text": value, "form": silent.form}),
        ("compare", {"text": value, "form": silent.form, "rivals": value}),
        ("compare", {"text": "x", "form": silent.form, "rivals": [{"adapter": value}]}),
        ("preset", {"name": value}),
        ("language", {"language": value}),
    ):
        assert error_of(silent.call(kind, **values))[0] == 400


def test_actions_take_null_for_an_empty_choice(caller: Caller) -> None:
    """A drop-down without a choice sends null."""
    assert shown_message(caller.call("save_preset", name=None, form=caller.form))
    assert shown_message(caller.call("save_snippet", name=None, message=None))
    assert shown_message(caller.call("delete_snippet", name=None)) is not None
    assert shown_message(caller.call("delete_preset", name=None))
    shown_message(caller.call("use_snippet", name=None))
    assert caller.call("preset", name=None).status_code == 200
    assert shown_message(caller.call("compare", text="x", form=caller.form, rivals=[]))
    assert caller.chats() == []
