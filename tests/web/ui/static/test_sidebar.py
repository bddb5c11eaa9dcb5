"""The side bar: the visitor's chats and their tools."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.web.ui.static.conftest import Open
from tests.web.ui.static.harness import Harness

pytestmark = pytest.mark.browser

DAY = 24 * 60 * 60
NOON = datetime(2026, 5, 5, 12, tzinfo=UTC)
NAMED = {"Content-Disposition": "attachment; filename*=UTF-8''chats.md"}
EVIL = "<img src=x onerror='window.pwned = 1'>"


def chat(key: str, title: str, age: float = 0, running: bool = False) -> dict[str, Any]:
    return {"id": key, "title": title, "updated": time.time() - age, "running": running}


def row(harness: Harness, key: str) -> Locator:
    return harness.page.locator(f'.linly-sidebar li[data-id="{key}"]')


def press(scope: Locator, name: str) -> None:
    scope.get_by_role("button", name=name, exact=True).click()


def menu(harness: Harness, entry: str) -> None:
    harness.page.get_by_text("Export and import").click()
    press(harness.page.locator(".menu"), entry)


def test_chats_are_grouped_by_day(opened: Open) -> None:
    harness = opened(timezone_id="UTC")
    harness.page.clock.set_fixed_time(NOON)  # the day may end while the test runs
    ages = {"Ships": 0, "Sea": 11.9, "Rum": 12.1, "Gold": 35.9, "Map": 36.1, "Sail": 40 * 24}
    harness.sidebar(
        *(
            {"id": title, "title": title, "updated": NOON.timestamp() - hours * 60 * 60,
             "running": title == "Sea"}
            for title, hours in ages.items()
        ),
        current="Ships",
    )  # fmt: skip
    nav = harness.page.get_by_role("navigation", name="Chats")
    days = {"Today": ["Ships", "Sea"], "Yesterday": ["Rum", "Gold"], "Earlier": ["Map", "Sail"]}
    for day, titles in days.items():
        section = nav.locator("section", has=harness.page.get_by_role("heading", name=day))
        expect(section.locator(".open")).to_contain_text(titles)
    expect(nav.locator('[aria-current="page"]')).to_have_text("Ships")
    expect(row(harness, "Sea")).to_contain_text("A reply is under way")
    press(row(harness, "Rum"), "Rum")
    assert harness.actions() == [{"kind": "open", "id": "Rum"}]


def test_an_empty_list_shows_a_sentence(harness: Harness) -> None:
    harness.sidebar(persistent=False)
    expect(harness.page.get_by_text("Your chats will be here.")).to_be_visible()
    expect(harness.page.get_by_text("Cookies are off")).to_be_visible()
    harness.sidebar(query="rum")
    expect(harness.page.get_by_text("No chat has these words.")).to_be_visible()
    expect(harness.page.get_by_text("Cookies are off")).to_be_hidden()


def test_a_search_waits_until_typing_pauses(opened: Open) -> None:
    harness = opened(fake_clock=True)
    harness.sidebar(chat("a", "Ships"))
    search = harness.page.get_by_role("searchbox", name="Search chats")
    search.focus()
    for letter in "rum":
        search.press(letter)
        harness.page.clock.run_for(100)
    assert harness.actions() == []
    harness.page.clock.run_for(200)
    assert harness.actions() == [{"kind": "search", "text": "rum"}]
    harness.sidebar(query="ru")  # a late update
    expect(search).to_have_value("rum")
    expect(search).to_be_focused()


def test_a_chat_is_renamed(harness: Harness) -> None:
    harness.sidebar(chat("a", "Ships"), chat("b", "Sea"))
    row(harness, "a").hover()
    press(row(harness, "a"), "Rename")
    box = harness.page.get_by_role("textbox", name="Name of the chat")
    expect(box).to_be_focused()
    box.press("End")
    box.type(" ahoy")
    harness.sidebar(chat("b", "Sea"), chat("a", "Ships", DAY * 30), chat("c", "New"))
    expect(box).to_have_value("Ships ahoy")
    expect(box).to_be_focused()
    box.press("Enter")
    assert harness.actions() == [{"kind": "rename", "id": "a", "title": "Ships ahoy"}]
    expect(box).to_have_count(0)


def test_renaming_can_be_cancelled(harness: Harness) -> None:
    harness.sidebar(chat("a", "Ships"))
    for keys in (["x", "Escape"], ["Enter"], ["Backspace", "Enter"]):
        row(harness, "a").hover()
        press(row(harness, "a"), "Rename")
        for key in keys:
            harness.page.get_by_role("textbox", name="Name of the chat").press(key)
        expect(harness.page.get_by_role("textbox", name="Name of the chat")).to_have_count(0)
    assert harness.actions() == []


def test_a_chat_is_deleted_and_restored(harness: Harness) -> None:
    harness.sidebar(chat("a", "Ships"))
    row(harness, "a").hover()
    press(row(harness, "a"), "Delete")
    assert harness.actions() == [{"kind": "delete", "id": "a"}]
    gone = {"id": "a", "title": "Ships"}
    harness.sidebar(deleted=gone)
    bar = harness.page.locator(".deleted")
    expect(bar).to_have_role("status")
    expect(bar).to_contain_text("Deleted “Ships”")
    press(bar, "Undo")
    assert harness.actions() == [{"kind": "undo", "id": "a"}]
    press(bar, "Close")
    harness.sidebar(chat("b", "Sea"), deleted=gone)
    expect(bar).to_be_hidden()
    harness.sidebar(deleted={"id": "b", "title": "Sea"})
    expect(bar).to_contain_text("Sea")


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ("Export chat as JSON", "json"),
        ("Export chat as Markdown", "markdown"),
        ("Export all chats", "all"),
        ("Export votes", "pairs"),
    ],
)
def test_the_menu_exports_chats(harness: Harness, entry: str, kind: str) -> None:
    harness.sidebar(chat("a", "Ships"), current="a")
    harness.answer("export", text="x", headers=NAMED)
    with harness.page.expect_download() as download:
        menu(harness, entry)
    (post,) = harness.posts()
    assert (post["path"], json.loads(post["body"])) == ("page/export", {"kind": kind})
    assert download.value.suggested_filename == "chats.md"
    expect(harness.page.get_by_text(entry)).to_be_hidden()


def test_without_a_chat_there_is_nothing_to_export(harness: Harness) -> None:
    harness.sidebar()
    harness.page.get_by_text("Export and import").click()
    expect(harness.page.get_by_role("button", name="Export chat as JSON")).to_be_disabled()
    expect(harness.page.get_by_role("button", name="Copy link")).to_be_disabled()


def choose(harness: Harness, text: str) -> None:
    """Import a file with this text."""
    file = {"name": "my.json", "mimeType": "application/json", "buffer": text.encode()}
    harness.page.locator("#side input[type=file]").set_input_files(file)


def test_a_file_is_imported(harness: Harness) -> None:
    harness.sidebar()
    with harness.page.expect_file_chooser() as chooser:
        menu(harness, "Import …")
    file = {"name": "my.json", "mimeType": "application/json", "buffer": '{"船": 1}'.encode()}
    chooser.value.set_files(file)
    (post,) = harness.wait_for_posts()
    assert (post["path"], post["query"]) == ("page/import", "?more=0")
    assert post["body"] == '{"船": 1}'


@pytest.mark.slow
def test_a_large_file_is_imported_in_parts(harness: Harness) -> None:
    """The server limits a request's size; an export of all chats could not be imported."""
    harness.sidebar()
    chats = [{"title": f"{number}", "text": "长" * 300_000} for number in range(7)]
    export = {"format": "linly-chats", "version": 1, "chats": chats}
    for value, those in ((export, lambda part: part["chats"]), (chats, lambda part: part)):
        choose(harness, json.dumps(value, ensure_ascii=False))
        posts = harness.wait_for_posts(3)
        assert [post["query"] for post in posts] == ["?more=1", "?more=1", "?more=0"]
        sent = [json.loads(post["body"]) for post in posts]
        assert [chat for part in sent for chat in those(part)] == chats
        assert len(sent) == 3
        if value is export:
            assert all(part | {"chats": chats} == export for part in sent)


@pytest.mark.slow
def test_a_large_file_of_lines_is_imported_in_parts(harness: Harness) -> None:
    harness.sidebar()
    lines = [json.dumps({"title": f"{n}", "text": "x" * 900_000}) for n in range(7)]
    choose(harness, "\n".join(lines) + "\n")
    posts = harness.wait_for_posts(7)
    assert [post["body"] for post in posts] == lines
    assert [post["query"] for post in posts] == ["?more=1"] * 6 + ["?more=0"]


@pytest.mark.slow
def test_what_all_parts_of_a_file_lack_is_told_once(harness: Harness) -> None:
    harness.sidebar()
    harness.answer("import", left_out={"images": 2, "tool_calls": 1})
    harness.answer("import", left_out={"images": 2})
    choose(harness, json.dumps([{"text": "长" * 900_000}, {"text": "长" * 900_000}]))
    sentence = "Not imported from “my.json”: images: 4, tool calls: 1."
    expect(harness.page.get_by_text("Not imported")).to_have_text(sentence)


def test_nothing_is_told_of_a_file_that_lacks_nothing(harness: Harness) -> None:
    harness.sidebar()
    harness.answer("import", left_out={}, say="Done.")
    choose(harness, "[]")
    expect(harness.page.get_by_text("Done.")).to_be_visible()
    expect(harness.page.get_by_text("Not imported")).to_be_hidden()


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x1f\x8b\x08\x00"])
def test_only_the_beginning_of_an_archive_is_sent(harness: Harness, start: bytes) -> None:
    """The server says what to do with it; a large one was "larger than 5 MB"."""
    harness.sidebar()
    buffer = start + b"\xfe" * 6_000_000
    file = {"name": "export.zip", "mimeType": "application/zip", "buffer": buffer}
    harness.page.locator("#side input[type=file]").set_input_files(file)
    (post,) = harness.wait_for_posts()
    assert post["body"] == start.decode("utf-8", "replace")


ENDLESS = json.dumps({"chats": [{"text": "长" * 1_700_000}]}, ensure_ascii=False)


@pytest.mark.parametrize("text", [" " * 5_000_001, ENDLESS])
def test_a_chat_too_large_for_one_part_is_refused(harness: Harness, text: str) -> None:
    harness.sidebar()
    choose(harness, text)
    expect(harness.page.get_by_text("A part of “my.json” is larger than 5 MB")).to_be_visible()
    assert harness.posts() == []


def test_a_sentence_says_that_there_are_older_chats(harness: Harness) -> None:
    harness.sidebar(chat("c1", "Ships"), chat("c2", "Sails"), more=True)
    expect(harness.page.get_by_text("These are the last 2; a search finds")).to_be_visible()
    harness.sidebar(chat("c1", "Ships"))
    expect(harness.page.get_by_text("These are the last")).to_be_hidden()


def test_the_link_to_a_chat(harness: Harness) -> None:
    harness.sidebar(chat("c1", "Ships"), current="c1")
    harness.log(chat="c1")
    menu(harness, "Copy link")
    expect(harness.page.get_by_text("The link is copied.")).to_be_visible()
    link = harness.page.evaluate("navigator.clipboard.readText()")
    assert link == f"{harness.site.url}?chat=c1"


@pytest.mark.parametrize(("width", "count"), [(1200, 0), (400, 1)])
def test_opening_a_chat_closes_the_bar_on_a_phone(opened: Open, width: int, count: int) -> None:
    harness = opened(viewport={"width": width, "height": 800})
    harness.page.evaluate("""document.getElementById('side').className = 'shown';
        window.count = 0; document.addEventListener('linly:opened', () => { count += 1; })""")
    harness.sidebar(chat("a", "Ships"))
    press(row(harness, "a"), "Ships")
    assert harness.page.evaluate("count") == count


def test_html_in_titles_is_not_run(harness: Harness) -> None:
    harness.sidebar(chat("a", EVIL), deleted={"id": "d", "title": EVIL})
    expect(row(harness, "a").locator(".title")).to_have_text(EVIL)
    expect(harness.page.locator(".deleted")).to_contain_text(EVIL)
    assert harness.page.evaluate("window.pwned") is None


def test_a_redraw_keeps_the_focus(harness: Harness) -> None:
    harness.sidebar(chat("a", "Ships"), chat("b", "Sea", 60))
    open_sea = row(harness, "b").get_by_role("button", name="Sea", exact=True)
    open_sea.focus()
    harness.sidebar(chat("b", "Sea"), chat("a", "Ships", DAY * 9), current="b")
    expect(open_sea).to_be_focused()
