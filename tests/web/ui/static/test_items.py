"""`Items` and the streaming state: parts that the stream sends, put together."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.web.ui.static.harness import Harness, asked, replied

pytestmark = pytest.mark.browser

MERGE = """(parts) => import(new URL('page/items.js', document.baseURI)).then(({ Items }) => {
  const items = new Items();
  return parts.map((part) => items.merge(part));
})"""
SAME = """(parts) => import(new URL('page/items.js', document.baseURI)).then(({ Items }) => {
  const items = new Items();
  const [before, after] = parts.map((part) => items.merge(part));
  return after.map((item) => before.includes(item));
})"""
RECEIVE = """(all) => import(new URL('page/streaming_state.js', document.baseURI)).then((live) => {
  const ids = all.map((news) => live.receiveLive(news));
  return [ids, (id, text) => live.withLive({ id, text, state: 'streaming' }).text];
}).then(([ids, text]) => [ids, text('a', ''), text('b', '')])"""


def item(key: str, text: str = "") -> dict[str, str]:
    return {"id": key, "text": text}


def parts(order: str, *changed: dict[str, str]) -> dict[str, Any]:
    return {"order": list(order), "changed": {one["id"]: one for one in changed}}


def full_reply(number: int, key: str, text: str, notice: str = "") -> dict[str, Any]:
    """Returns a streaming reply with its full text, and the number that it has from then on."""
    return {"n": number, "id": key, "text": text, "notice": notice}


def test_items_merge_changes(harness: Harness) -> None:
    lists = harness.page.evaluate(MERGE, [
        parts("ab", item("a"), item("b")),
        parts("ab"),
        parts("bca", item("c"), item("b", "new")),
        parts("c"),
        parts("ca"),  # a removed item is forgotten
        parts("ca", item("a", "again")),
        parts(""),
    ])  # fmt: skip
    found = [[one["id"] + one["text"] for one in items] for items in lists]
    assert found == [["a", "b"], ["a", "b"], ["bnew", "c", "a"], ["c"], ["c"], ["c", "aagain"], []]


def test_items_keep_unchanged_objects(harness: Harness) -> None:
    lists = [parts("ab", item("a"), item("b")), parts("bca", item("c"), item("b", "new"))]
    assert harness.page.evaluate(SAME, lists) == [False, False, True]


def test_items_with_numeric_ids_keep_their_order(harness: Harness) -> None:
    """An object of JavaScript puts numeric keys first, in numeric order."""
    (found,) = harness.page.evaluate(MERGE, [parts("921", item("1"), item("2"), item("9"))])
    assert [one["id"] for one in found] == ["9", "2", "1"]


def test_live_additions_find_their_reply_by_number(harness: Harness) -> None:
    ids, a, b = harness.page.evaluate(RECEIVE, [
        [full_reply(1, "a", "Arr"), full_reply(2, "b", "", "2nd in the queue")],
        [[2, "Ay"], [1, ", me"]],
        [[2, "e"]],
        [full_reply(1, "a", "Anew")],
        [[7, "of a reply that is not known"]],
    ])  # fmt: skip
    assert ids[:4] == [["a", "b"], ["b", "a"], ["b"], ["a"]]
    assert (a, b) == ("Anew", "Aye")


def test_live_numbers_restart_with_a_new_stream(harness: Harness) -> None:
    _, a, b = harness.page.evaluate(RECEIVE, [
        [full_reply(1, "a", "Arr")],
        [full_reply(1, "b", "Aye")],
        [[1, "!"]],
    ])  # fmt: skip
    assert (a, b) == ("Arr", "Aye!")


def test_live_reply_of_a_reopened_chat(harness: Harness) -> None:
    """Its reply has another number then, and a longer text."""
    reply = replied("a", "Arr", state="streaming")
    harness.log(asked("u", "Hi"), reply)
    harness.live(a="Arr, me")
    harness.live()
    harness.log(asked("v", "Ho"), chat="c2")
    harness.log(asked("u", "Hi"), reply)
    harness.live(a="Arr, me hearties")
    harness.live(a="Arr, me hearties!")
    expect(harness.message("a").locator(".body")).to_have_text("Arr, me hearties!")


def test_live_reply_whose_text_was_replaced(harness: Harness) -> None:
    harness.log(replied("a", "", state="streaming"))
    harness.live(a="A long beginning that was wrong")
    harness.live(a="A better one, and longer than what was there before")
    expect(harness.message("a").locator(".body")).to_contain_text("A better one")


def test_many_updates_are_drawn_once_a_frame(harness: Harness) -> None:
    harness.log(replied("a", "", state="streaming"))
    harness.page.evaluate("""window.draws = 0;
        new MutationObserver(() => { draws += 1; }).observe(
          document.querySelector('article .body'), {childList: true, subtree: true,
          characterData: true});
        for (let i = 1; i < 50; i += 1) harness.live({a: {text: 'word '.repeat(i), notice: ''}})""")
    harness.frames()
    assert harness.page.evaluate("draws") == 1
    assert harness.message("a").locator(".body").inner_text().count("word") == 49
