"""The log: messages and their tools."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from tests.web.ui.static.conftest import Open
from tests.web.ui.static.harness import Harness, asked, replied

pytestmark = pytest.mark.browser

FACTS = {
    "facts": "38 tokens in reply to 52 · pirate",
    "provenance": [["Adapter", "pirate"], ["Digest", "d1a2"]],
    "exact": True,
}


def press(scope: Locator, name: str) -> None:
    scope.get_by_role("button", name=name, exact=True).click()


def clipboard(harness: Harness) -> str:
    text: str = harness.page.evaluate("navigator.clipboard.readText()")
    return text


def test_messages_have_labels_and_texts(harness: Harness) -> None:
    harness.log(asked("u", "Hi\n  *there*"), replied("a", "**Arr!**"))
    log = harness.page.get_by_role("log", name="Chat")
    expect(log).to_have_attribute("aria-live", "polite")
    expect(log.get_by_role("article", name="You").locator(".body")).to_have_text("Hi\n  *there*")
    expect(log.get_by_role("article", name="Reply").locator("strong")).to_have_text("Arr!")
    assert harness.message("u").locator(".body").evaluate("e => e.textContent") == "Hi\n  *there*"


def test_an_empty_chat_shows_suggestions(harness: Harness) -> None:
    harness.log(chat=None, suggestions=["Tell me a story"])
    expect(harness.page.get_by_text("Say something.")).to_be_visible()
    press(harness.page.locator("#log"), "Tell me a story")
    expect(harness.box).to_have_value("Tell me a story")
    harness.log(asked("u", "Hi"))
    expect(harness.page.get_by_text("Say something.")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "kind"), [("Answer again", "regenerate"), ("Side by side", "side_by_side")]
)
def test_a_reply_has_tools(harness: Harness, name: str, kind: str) -> None:
    harness.log(asked("u", "Hi"), replied("a", "Arr", comparison="x"))
    press(harness.message("a"), name)
    assert harness.actions() == [{"kind": kind, "id": "a"}]


def test_compared_replies_have_a_side_by_side_button(harness: Harness) -> None:
    harness.log(replied("a", "Arr"))
    expect(harness.message("a").get_by_role("button", name="Side by side")).to_have_count(0)


def test_copy_takes_the_newest_text(harness: Harness) -> None:
    harness.log(asked("u", "a  b"), replied("a", "*Arr*", state="streaming"))
    press(harness.message("u"), "Copy")
    expect(harness.message("u").get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(harness) == "a  b"
    harness.live(a="*Arr* and more")
    press(harness.message("a"), "Copy")
    expect(harness.message("a").get_by_role("button", name="Copied")).to_be_visible()
    assert clipboard(harness) == "*Arr* and more"


def test_facts_and_provenance(harness: Harness) -> None:
    harness.log(replied("a", "Arr", **FACTS), replied("b", "Aye", facts="3 tokens"))
    facts = harness.message("a").locator(".facts")
    facts.get_by_text("38 tokens in reply to 52").click()
    expect(facts.locator("dl > div").first).to_have_text("Adapterpirate")
    press(facts, "Run again exactly")
    assert harness.actions() == [{"kind": "again", "id": "a"}]
    expect(harness.message("b").locator(".facts")).to_have_text("3 tokens")


@pytest.mark.parametrize(
    ("state", "error", "line"),
    [
        ("stopped", "", "Stopped"),
        ("cut", "", "Cut off"),
        ("interrupted", "", "Interrupted"),
        ("failed", "The adapter is gone", "The adapter is gone"),
        ("failed", "", "This reply failed"),
    ],
)
def test_a_reply_that_ended_early_can_be_continued(
    harness: Harness, state: str, error: str, line: str
) -> None:
    harness.log(replied("a", "Arr", state=state, error=error, continues=True))
    expect(harness.message("a").locator(".state")).to_contain_text(line)
    press(harness.message("a"), "Continue")
    assert harness.actions() == [{"kind": "continue", "id": "a"}]
    harness.log(replied("a", "Arr", state=state, error=error))
    expect(harness.message("a").get_by_role("button", name="Continue")).to_have_count(0)


def test_branches_by_mouse_and_by_keyboard(harness: Harness) -> None:
    versions = [{"at": i + 1, "of": 3, "before": None, "after": None} for i in range(3)]
    versions[0]["after"] = "b"
    versions[1] |= {"before": "a", "after": "c"}
    harness.log(replied("b", "second", branch=versions[1]))
    pager = harness.page.get_by_role("group", name="Version 2 of 3")
    expect(pager).to_contain_text("2/3")
    press(pager, "Version before")
    press(pager, "Version after")
    assert [action["id"] for action in harness.actions()] == ["a", "c"]
    harness.log(replied("a", "first", branch=versions[0]))
    expect(harness.page.get_by_role("button", name="Version before")).to_be_disabled()
    expect(harness.page.get_by_role("button", name="Version after")).to_be_focused()


def test_an_edit_is_sent(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), replied("a", "Arr"))
    press(harness.message("u"), "Edit")
    box = harness.page.get_by_role("textbox", name="Edit what you wrote")
    expect(box).to_be_focused()
    expect(box).to_have_value("Hi")
    box.press("Shift+Enter")
    box.type("there")
    box.press("Enter")
    assert harness.actions() == [{"kind": "edit", "id": "u", "text": "Hi\nthere"}]
    expect(box).to_be_disabled()  # until the log has it
    assert stored_edit(harness) == "Hi\nthere"
    harness.log(asked("v", "Hi\nthere"))
    expect(box).to_have_count(0)
    assert stored_edit(harness) is None
    expect(harness.message("v").get_by_role("button", name="Edit")).to_be_focused()
    harness.log(asked("u", "Hi"), replied("a", "Arr"))
    press(harness.message("u"), "Edit")
    expect(box).to_have_value("Hi")
    press(harness.message("u"), "Ask again")
    assert harness.actions() == [{"kind": "edit", "id": "u", "text": "Hi"}]


def stored_edit(harness: Harness) -> str | None:
    found: str | None = harness.page.evaluate("localStorage.getItem('linly.edit.u')")
    return found


@pytest.mark.parametrize("why", ["refused", "not shown"])
def test_an_edit_that_does_not_arrive_stays(opened: Open, why: str) -> None:
    harness = opened(fake_clock=True)
    harness.log(asked("u", "Hi"), replied("a", "Arr"))
    press(harness.message("u"), "Edit")
    box = harness.page.get_by_role("textbox", name="Edit what you wrote")
    box.fill("Ahoy")
    if why == "refused":
        harness.answer("actions/edit", delayed=True, status=429, error={"message": "Busy"})
    else:
        harness.answer("actions/edit", delayed=True)
    press(harness.message("u"), "Ask again")
    expect(harness.message("u").locator(".editor")).to_have_attribute("aria-busy", "true")
    expect(harness.message("u").get_by_role("button", name="Cancel")).to_be_disabled()
    if why == "refused":
        harness.release()
    else:
        harness.page.clock.run_for(20_000)
        expect(box).to_be_disabled()  # if it were sent again, it would be there twice
        harness.release()
        harness.page.clock.run_for(10_000)
    expect(box).to_be_enabled()
    expect(box).to_be_focused()
    expect(box).to_have_value("Ahoy")
    assert stored_edit(harness) == "Ahoy"
    press(harness.message("u"), "Ask again")
    assert [action["text"] for action in harness.actions()] == ["Ahoy", "Ahoy"]


def test_an_edit_stays_if_another_message_takes_its_place(harness: Harness) -> None:
    harness.log(asked("u", "Hi"))
    press(harness.message("u"), "Edit")
    box = harness.page.get_by_role("textbox", name="Edit what you wrote")
    box.fill("Ahoy")
    box.press("Enter")
    harness.log(asked("v", "Something else"), chat="c2")
    assert stored_edit(harness) == "Ahoy"
    harness.log(asked("u", "Hi"))
    expect(box).to_have_value("Ahoy")
    expect(box).to_be_enabled()


@pytest.mark.parametrize("how", ["Cancel", "Escape"])
def test_an_edit_can_be_cancelled(harness: Harness, how: str) -> None:
    harness.log(asked("u", "Hi"))
    press(harness.message("u"), "Edit")
    box = harness.page.get_by_role("textbox", name="Edit what you wrote")
    box.fill("")
    box.press("Enter")
    expect(box).to_be_visible()  # nothing to send
    if how == "Escape":
        box.press("Escape")
    else:
        press(harness.message("u"), "Cancel")
    expect(box).to_have_count(0)
    expect(harness.message("u").get_by_role("button", name="Edit")).to_be_focused()
    assert harness.actions() == []
    harness.reload().log(asked("u", "Hi"))
    expect(box).to_have_count(0)


def test_an_edit_survives_redraws_and_a_reload(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), replied("a", "Arr"))
    press(harness.message("u"), "Edit")
    box = harness.page.get_by_role("textbox", name="Edit what you wrote")
    box.fill("Hi, captain")
    harness.log(asked("u", "Hi", facts="changed"), replied("a", "Arr, more"))
    expect(box).to_have_value("Hi, captain")
    expect(box).to_be_focused()
    harness.reload().log(asked("u", "Hi"), replied("a", "Arr"))
    expect(box).to_have_value("Hi, captain")


@pytest.mark.parametrize("order", ["live first", "log first"])
def test_live_text_is_drawn(harness: Harness, order: str) -> None:
    message = replied("a", "Arr", state="streaming")
    if order == "live first":
        harness.live(a="Arr, me hearties")
        harness.log(message)
    else:
        harness.log(message)
        harness.live(a="Arr, me hearties")
    article = harness.message("a")
    expect(article.locator(".body")).to_have_text("Arr, me hearties")
    expect(article).to_have_attribute("aria-busy", "true")
    expect(article.get_by_role("button", name="Answer again")).to_have_count(0)
    harness.live()
    expect(article.locator(".body")).to_have_text("Arr, me hearties")  # until the log has it
    harness.log(replied("a", "Arr, me hearties!"))
    expect(article.locator(".body")).to_have_text("Arr, me hearties!")
    expect(article).to_have_attribute("aria-busy", "false")


WATCHES = """() => {
    window.changed = [];
    const tell = ({ target, attributeName }) => changed.push(`${target.nodeName} ${attributeName}`);
    new MutationObserver((all) => all.forEach(tell))
      .observe(document, { attributes: true, subtree: true });
}"""


def test_live_text_changes_no_attribute(harness: Harness) -> None:
    """Setting even the same value makes the browser restyle the descendants."""
    messages = [asked("q", "Hi"), replied("a", "", state="streaming")]
    harness.log(*messages)
    harness.live(a="Arr, me")
    harness.page.evaluate(WATCHES)
    harness.live(a="Arr, me hearties")
    expect(harness.message("a")).to_contain_text("hearties")
    assert harness.page.evaluate("changed") == []
    harness.log(*messages)  # no change
    assert not {"HTML lang", "ARTICLE aria-busy"} & set(harness.page.evaluate("changed"))
    harness.log(asked("q", "Hi"), replied("a", "Arr, me hearties"))
    assert "ARTICLE aria-busy" in harness.page.evaluate("changed")


def test_live_never_shows_less_than_the_log(harness: Harness) -> None:
    harness.live(a="Arr", b="Old news")
    harness.log(replied("a", "Arr, more", state="streaming"), replied("b", "Done"))
    expect(harness.message("a").locator(".body")).to_have_text("Arr, more")
    expect(harness.message("b").locator(".body")).to_have_text("Done")


def test_a_waiting_reply_shows_its_notice(harness: Harness) -> None:
    harness.log(replied("a", "", state="streaming"))
    harness.live(notice="number 3 in the queue", a="")
    expect(harness.message("a")).to_contain_text("number 3 in the queue")
    harness.live(a="Arr")
    expect(harness.message("a")).not_to_contain_text("queue")
    harness.log(replied("a", "Arr", notice="2 turns were left out"))
    expect(harness.message("a")).to_contain_text("2 turns were left out")


def test_only_changed_parts_are_redrawn(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), replied("a", "Arr"), replied("b", "Aye"))
    harness.page.evaluate("""window.changes = []; new MutationObserver((all) => all.forEach(
        (one) => changes.push(one.target.closest('article')?.dataset.id))).observe(
        document.querySelector('.messages'), {childList: true, subtree: true})""")
    harness.log(asked("u", "Hi"), replied("a", "Arr"), replied("b", "Aye", facts="3 tokens"))
    assert set(harness.page.evaluate("changes")) == {"b"}


def test_a_new_language_redraws_every_text(harness: Harness) -> None:
    harness.log(replied("a", "Arr", state="stopped"))
    harness.log(replied("a", "Arr", state="stopped"), language="zh")
    expect(harness.message("a").get_by_role("button", name="再答一次")).to_be_attached()
    expect(harness.message("a").locator(".state")).to_have_text("已停止")


def compared(vote: str | None = None, **more: object) -> dict[str, object]:
    return {"id": "cmp", "vote": vote, "replies": [
        replied("p", "Arr", who="pirate · Precise", **FACTS),
        replied("q", "Hello", who="Base · Balanced", **more),
    ]}  # fmt: skip


def test_a_comparison_has_columns_and_votes(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), comparison=compared())
    column = harness.page.get_by_role("article", name="pirate · Precise")
    expect(column.get_by_role("heading")).to_have_text("pirate · Precise")
    expect(column.locator(".facts")).to_contain_text("38 tokens")
    press(column, "Best")
    press(harness.page.locator("#log"), "Tie")
    press(column, "Go on with this one")
    assert harness.actions() == [
        {"kind": "vote", "comparison": "cmp", "winner": "p"},
        {"kind": "vote", "comparison": "cmp", "winner": "tie"},
        {"kind": "choose", "id": "p"},
    ]
    harness.log(asked("u", "Hi"), comparison=compared("p"))
    pressed = harness.page.get_by_role("button", pressed=True)
    expect(pressed).to_have_count(1)
    expect(column.get_by_role("button", pressed=True)).to_have_text("Best")
    harness.log(asked("u", "Hi"), comparison=compared("tie"))
    expect(pressed).to_have_text("Tie")
    harness.log(asked("u", "Hi"), replied("p", "Arr"))
    expect(harness.page.get_by_role("button", name="Tie")).to_have_count(0)


def test_a_streaming_comparison_cannot_be_voted_on(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), comparison=compared(state="streaming"))
    harness.live(q="Hello there")
    expect(harness.message("q").locator(".body")).to_have_text("Hello there")
    expect(harness.message("p").get_by_role("button", name="Best")).to_be_disabled()
