"""Actions: how they are posted, and how their responses are handled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from playwright.sync_api import Locator, expect

from tests.web.ui.static.conftest import Open
from tests.web.ui.static.harness import Harness, asked
from web.ui.actions import Actions

pytestmark = pytest.mark.browser

NOT_SENT = "This did not reach the server. Try again."
COLLECT_MESSAGES = """window.shown = [];
  document.addEventListener('linly:message-shown', ({ detail }) => shown.push(detail));"""
DO = """(action) => import(new URL('page/actions.js', document.baseURI))
  .then(({ act }) => { act(action); })"""
EXPORT = """(kind) => import(new URL('page/actions.js', document.baseURI))
  .then(({ exportChats }) => { exportChats(kind); })"""
IMPORT = """(texts) => import(new URL('page/actions.js', document.baseURI))
  .then(({ importChats }) => texts.forEach((text, i) => { importChats(text, i < 2); }))"""
BUSY = {"code": "reply_busy", "message": "A reply is under way."}
# Values that the page's scripts pass to an action; the others are read from the controls.
GIVEN: dict[str, dict[str, Any]] = {
    **{kind: {"id": "x"} for kind in (
        "open", "continue", "again", "branch", "side_by_side", "choose", "delete", "undo"
    )},
    "edit": {"id": "x", "text": "Hi"},
    "rename": {"id": "x", "title": "Ships"},
    "search": {"text": "rum"},
    "vote": {"comparison": "cmp", "winner": "tie"},
}  # fmt: skip


def act(harness: Harness, kind: str, **values: Any) -> None:
    """Runs an action, as a script of the page does."""
    harness.page.evaluate(DO, {"kind": kind, **values})


def toasts(harness: Harness) -> Locator:
    return harness.page.get_by_role("status").locator(".linly-toast")


def kinds(harness: Harness) -> list[str]:
    return [action["kind"] for action in harness.actions()]


def test_every_posted_action_has_a_valid_body(harness: Harness) -> None:
    registered = Actions(*[MagicMock() for _ in range(6)]).registered
    harness.page.evaluate("Object.assign(harness.values, {scale: '', seed: null})")
    harness.event(loaded_chat="c1")
    harness.box.fill("Ahoy")
    posted = []
    for kind, (body, _) in registered.items():
        act(harness, kind, **GIVEN.get(kind, {}))
        for post in harness.posts():
            name = post["path"].removeprefix("page/actions/")
            registered[name].body.model_validate_json(post["body"])
            posted.append(name)
        assert kind in posted, body
    assert set(posted) == set(registered)


def test_send_posts_text_and_form(opened: Open) -> None:
    harness = opened("?chat=c1")
    harness.event(loaded_chat="c1")
    harness.box.fill("Ahoy")
    harness.control("send", adapter="pirate", temperature=0.5, scale="")
    (action,) = harness.actions(form=True)
    assert action["text"] == "Ahoy"
    chosen = {"loaded_chat": "c1", "adapter": "pirate", "temperature": 0.5, "scale": None}
    assert action["form"].items() >= chosen.items()


def test_a_used_prompt_is_appended_to_the_box(harness: Harness) -> None:
    harness.answer("actions/use_snippet", delayed=True, inserted="Sum it up")
    harness.box.fill("A te")
    harness.control("use_snippet")
    harness.control("use_snippet")  # as Gradio does by itself
    harness.box.fill("A text.")
    harness.release()
    expect(harness.box).to_have_value("A text.\nSum it up")
    harness.answer("actions/use_snippet", inserted="Sum it up")
    harness.box.fill(" ")
    harness.control("use_snippet")
    expect(harness.box).to_have_value("Sum it up")


def test_posts_name_tab_chat_and_language_in_headers(opened: Open) -> None:
    harness = opened("?chat=c1", fake_clock=True)
    act(harness, "new_chat")
    (post,) = harness.posts()
    own = {k: v for k, v in post["headers"].items() if k.startswith("x-linly")}
    assert own == {"x-linly-tab": "t1", "x-linly-language": "en", "x-linly-chat": "c1"}
    assert post["headers"]["content-type"] == "application/json"
    harness.log(chat=None, language="zh")
    act(harness, "new_chat")
    (post,) = harness.posts()
    own = {k: v for k, v in post["headers"].items() if k.startswith("x-linly")}
    assert own == {"x-linly-tab": "t1", "x-linly-language": "zh"}
    harness.server(way="silent")
    harness.drop()
    act(harness, "new_chat")
    (post,) = harness.posts()
    assert post["headers"]["x-linly-tab"] == "none"  # the stream of this tab is gone


def test_posts_omit_a_chat_that_is_no_valid_header(opened: Open) -> None:
    harness = opened("?chat=%E8%88%B9%0A")
    act(harness, "new_chat")
    (post,) = harness.posts()
    assert "x-linly-chat" not in post["headers"]


def test_actions_are_posted_one_after_another(harness: Harness) -> None:
    harness.answer("actions/send", delayed=True)
    harness.box.fill("one")
    harness.control("send")
    harness.box.fill("two")
    act(harness, "open", id="c2")
    harness.control("send")
    harness.box.fill("three")
    assert [action["text"] for action in harness.actions()] == ["one"]
    harness.release()
    actions = harness.actions()
    assert [action["kind"] for action in actions] == ["open", "send"]
    assert actions[1]["text"] == "two"  # as it was at Enter


def test_stop_does_not_wait_for_earlier_actions(harness: Harness) -> None:
    harness.answer("actions/send", delayed=True)
    harness.control("send")
    act(harness, "new_chat")
    harness.control("stop")
    assert kinds(harness) == ["send", "stop"]
    harness.release()
    assert kinds(harness) == ["new_chat"]


def test_only_the_newest_settings_are_sent(harness: Harness) -> None:
    harness.answer("actions/send", delayed=True)
    harness.control("send")
    for temperature in (0.1, 0.2, 0.3):
        harness.control("settings", temperature=temperature)
        harness.control("regenerate")
    harness.release()
    actions = harness.actions(form=True)
    assert [(action["kind"], action["form"]["temperature"]) for action in actions] == [
        ("send", 0.7), ("regenerate", 0.1), ("regenerate", 0.2), ("settings", 0.3),
        ("regenerate", 0.3),
    ]  # fmt: skip


def test_a_preset_s_sliders_are_settings_of_the_chat(harness: Harness) -> None:
    harness.answer("actions/preset", controls=[[3, {"value": 0.9}]])
    harness.control("preset", preset="Creative")
    assert kinds(harness) == ["preset", "settings"]
    updates = harness.page.evaluate("harness.updates")
    assert updates == [[None, None, None, {"__type__": "update", "value": 0.9}]]


def properties(harness: Harness) -> dict[str, Any]:
    """Returns the properties of control 0 after all updates."""
    updates = harness.page.evaluate("harness.updates")
    return {name: value for update in updates if update for name, value in update[0].items()}


def test_a_late_response_leaves_what_the_stream_has_sent_since(harness: Harness) -> None:
    harness.answer("actions/rename", delayed=True, order=2, controls=[
        [0, {"choices": ["old"], "value": "a"}],
    ])  # fmt: skip
    act(harness, "rename", id="x", title="y")
    harness.event(controls=[[0, {"choices": ["new"]}]], order=3)
    harness.release()
    harness.page.wait_for_function("harness.updates.length === 2")
    assert properties(harness) == {"__type__": "update", "choices": ["new"], "value": "a"}


def test_an_early_response_is_followed_by_the_stream(harness: Harness) -> None:
    harness.answer("actions/rename", order=2, controls=[[0, {"choices": ["one"]}]])
    act(harness, "rename", id="x", title="y")
    harness.event(controls=[[0, {"choices": ["late"]}]], order=1)  # made before the response
    assert properties(harness)["choices"] == ["one"]
    harness.event(controls=[[0, {"choices": ["two"]}]], order=3)
    assert properties(harness)["choices"] == ["two"]


def test_an_update_that_the_controls_missed_is_announced_again(opened: Open) -> None:
    """All later ones were shown too late by one."""
    harness = opened(fake_clock=True)
    harness.page.evaluate("harness.mute = true")
    harness.event(controls=[[0, {"choices": ["one"]}]], order=1)
    harness.page.evaluate("harness.mute = false")
    harness.event(controls=[[0, {"choices": ["two"]}]], order=2)
    harness.page.clock.run_for(1_000)
    harness.page.wait_for_function("harness.updates.length === 2")
    assert properties(harness)["choices"] == ["two"]
    harness.page.clock.run_for(5_000)
    assert len(harness.page.evaluate("harness.updates")) == 2


@pytest.mark.parametrize("order", [50, None])
def test_a_response_to_an_earlier_stream_is_older_than_all_of_this_one(
    harness: Harness, order: int | None
) -> None:
    """Each stream counts from 1: the number of another one must not block its updates."""
    harness.answer("actions/rename", delayed=True, order=order, controls=[
        [0, {"choices": ["old"], "value": "a", "label": "Old"}],
    ])  # fmt: skip
    act(harness, "rename", id="x", title="y")
    harness.drop()
    harness.page.wait_for_function("harness.sockets.length === 2")
    harness.event(controls=[[0, {"choices": ["new"]}]], order=1)
    harness.release()
    harness.page.wait_for_function("harness.updates.length === 2")
    assert properties(harness)["choices"] == ["new"]
    assert properties(harness)["value"] == "a"
    harness.event(controls=[[0, {"label": "New"}]], order=2)
    assert properties(harness)["label"] == "New"


def test_forms_name_the_chat_that_the_controls_show(harness: Harness) -> None:
    harness.event(loaded_chat="c1", controls=[[0, {"visible": False}], [1, {"value": "x"}]])
    harness.control("settings")
    harness.answer("actions/open", loaded_chat="c2")
    act(harness, "open", id="c2")
    harness.control("settings")
    harness.answer("actions/new_chat", loaded_chat="")
    act(harness, "new_chat")
    harness.control("settings")
    forms = [
        action["form"]["loaded_chat"] for action in harness.actions(form=True) if "form" in action
    ]
    assert forms == ["c1", "c2", ""]
    assert len(harness.page.evaluate("harness.updates")) == 1


def test_a_toast_disappears_by_itself(opened: Open) -> None:
    harness = opened(fake_clock=True)
    harness.page.evaluate(COLLECT_MESSAGES)
    harness.answer("actions/new_chat", say="Done <b>")
    act(harness, "new_chat")
    expect(toasts(harness)).to_have_text("Done <b>")
    assert harness.page.evaluate("shown") == ["Done <b>"]
    harness.page.clock.run_for(6_000)
    expect(toasts(harness)).to_have_count(0)


def test_a_toast_can_be_closed(harness: Harness) -> None:
    harness.answer("actions/new_chat", say="Done")
    act(harness, "new_chat")
    harness.page.locator(".linly-toast").get_by_role("button", name="Close").click()
    expect(toasts(harness)).to_have_count(0)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ({"status": 409, "error": BUSY}, "A reply is under way."),
        ({"status": 502, "text": "<html>Bad Gateway"}, NOT_SENT),
        ({"fails": True}, NOT_SENT),
        ({"text": "<html>a proxy's page"}, NOT_SENT),
    ],
)  # fmt: skip
def test_a_refused_action_shows_its_error_and_blocks_no_other(
    harness: Harness, answer: dict[str, Any], sentence: str
) -> None:
    harness.page.evaluate(COLLECT_MESSAGES)
    harness.answer("actions/regenerate", **answer)
    harness.control("regenerate")
    harness.control("send")
    expect(toasts(harness)).to_have_text(sentence)
    assert harness.page.evaluate("shown") == [sentence]
    assert kinds(harness) == ["regenerate", "send"]


def test_controls_that_do_not_answer_block_actions_only_briefly(opened: Open) -> None:
    """Later actions waited for ever."""
    harness = opened(fake_clock=True)
    harness.page.evaluate("harness.mute = true")
    harness.control("send")
    act(harness, "new_chat")
    assert harness.posts() == []
    harness.page.clock.run_for(10_000)
    expect(toasts(harness)).to_have_text(NOT_SENT)
    assert kinds(harness) == ["new_chat"]
    harness.complaints.clear()  # it is in the browser's console, too


@pytest.mark.parametrize("chat", ["c2", None])
def test_a_tab_whose_stream_is_gone_reconnects(opened: Open, chat: str | None) -> None:
    harness = opened("?chat=c1", fake_clock=True)
    harness.log(asked("u", "Hi"))
    harness.answer("actions/send", lost=True, chat=chat, sent="Ahoy")
    harness.box.fill("Ahoy")
    harness.control("send")
    address = harness.page.evaluate("location.href")
    assert address == harness.site.url + ("?chat=c2" if chat else "")
    query = "&chat=c2" if chat else ""
    assert harness.connections()[1:] == [f"page/events?language=en{query}"]
    expect(harness.box).to_have_value("")  # it has been sent
    act(harness, "new_chat")
    assert harness.posts()[-1]["headers"]["x-linly-tab"] == "t2"
    harness.page.clock.run_for(5_000)
    assert len(harness.connections()) == 2
    expect(harness.page.locator(".linly-banner")).to_have_count(0)


@pytest.mark.parametrize("status", [401, 410])
def test_an_expired_login_reloads_the_page(harness: Harness, status: int) -> None:
    harness.refuse("actions/new_chat", "This page needs a password.", status)
    with harness.page.expect_navigation():
        act(harness, "new_chat")
    harness.wait()


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"Content-Disposition": "attachment; filename*=UTF-8''%E8%88%B9.md"}, "船.md"),
        ({}, "chats.json"),
    ],
)
def test_an_export_is_downloaded(harness: Harness, headers: dict[str, str], name: str) -> None:
    harness.answer("export", text='{"船": 1}', headers=headers)
    with harness.page.expect_download() as download:
        harness.page.evaluate(EXPORT, "json")
    assert download.value.suggested_filename == name
    assert Path(download.value.path()).read_text(encoding="utf-8") == '{"船": 1}'
    (post,) = harness.posts()
    assert json.loads(post["body"]) == {"kind": "json"}
    assert post["headers"]["x-linly-tab"] == "t1"


def test_a_refused_export_shows_its_error(harness: Harness) -> None:
    harness.refuse("export", "This chat does not exist.", 404)
    harness.page.evaluate(EXPORT, "json")
    expect(toasts(harness)).to_have_text("This chat does not exist.")


def test_imports_are_posted_in_order_beside_other_actions(harness: Harness) -> None:
    harness.answer("import", delayed=True)
    harness.refuse("import", "These are no chats.")
    harness.answer("import", say="Imported.", chat="c9", loaded_chat="c9")
    harness.page.evaluate(IMPORT, ["1", "2", "3"])
    act(harness, "new_chat")
    assert [post["path"] for post in harness.posts()] == ["page/import", "page/actions/new_chat"]
    harness.release()
    posts = harness.posts()
    assert [(post["body"], post["query"]) for post in posts] == [("2", "?more=1"), ("3", "?more=0")]
    expect(toasts(harness)).to_have_text(["These are no chats.", "Imported."])
