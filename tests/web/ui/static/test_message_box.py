"""The message box: its keys, its drafts, and the page's address."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.web.ui.static.conftest import Open
from tests.web.ui.static.harness import Harness, asked, replied

pytestmark = pytest.mark.browser

# A fake of Gradio: sends at Enter; the sent text is removed when the server has it.
SENDS = """window.sent = [];
  document.querySelector('#message textarea').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    sent.push(event.target.value);
  })"""
RUNS = """window.stops = 0; document.getElementById('stop').hidden = false;
  document.getElementById('stop').addEventListener('click', () => { stops += 1; })"""


def draft(harness: Harness, chat: str) -> str | None:
    found: str | None = harness.page.evaluate(
        "(chat) => localStorage.getItem(`linly.draft.${chat}`)", chat
    )
    return found


def wait_for_draft(harness: Harness, chat: str, text: str | None) -> None:
    harness.page.wait_for_function(
        "([chat, text]) => localStorage.getItem(`linly.draft.${chat}`) === text", arg=[chat, text]
    )


def test_enter_that_ends_a_word_sends_nothing(harness: Harness) -> None:
    harness.page.evaluate(SENDS)
    harness.box.fill("ni hao")
    for init in ("{isComposing: true}", "{keyCode: 229}"):
        harness.box.evaluate(f"""e => e.dispatchEvent(new KeyboardEvent('keydown',
            {{key: 'Enter', bubbles: true, ...{init}}}))""")
    assert harness.page.evaluate("sent") == []
    harness.box.press("Enter")
    assert harness.page.evaluate("sent") == ["ni hao"]


def test_arrow_up_edits_the_last_message(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), replied("a", "Arr"), asked("v", "And?"), replied("b", "Aye"))
    harness.box.fill("x")
    harness.box.press("ArrowUp")
    expect(harness.page.get_by_role("textbox", name="Edit what you wrote")).to_have_count(0)
    harness.box.fill("")
    harness.box.press("ArrowUp")
    expect(harness.message("v").get_by_role("textbox")).to_be_focused()
    expect(harness.message("v").get_by_role("textbox")).to_have_value("And?")


def test_escape_stops_the_reply(harness: Harness) -> None:
    harness.page.evaluate(RUNS)
    harness.box.press("Escape")
    harness.page.locator(".scroller").press("Escape")
    assert harness.page.evaluate("stops") == 2
    harness.page.evaluate("document.getElementById('stop').hidden = true")
    harness.box.press("Escape")
    assert harness.page.evaluate("stops") == 2


def test_escape_in_a_list_or_search_stops_no_reply(harness: Harness) -> None:
    harness.page.evaluate(RUNS)
    harness.log(asked("u", "Hi"))
    chat = {"id": "c1", "title": "Ships", "updated": 0, "running": True}
    harness.sidebar(chat)
    harness.message("u").get_by_role("button", name="Edit").click()
    harness.page.get_by_role("textbox", name="Edit what you wrote").press("Escape")
    harness.page.get_by_text("Ships").hover()
    harness.page.get_by_role("button", name="Rename").click()
    harness.page.get_by_role("textbox", name="Name of the chat").press("Escape")
    harness.page.get_by_role("searchbox").fill("rum")
    harness.page.get_by_role("searchbox").press("Escape")
    harness.page.evaluate("""document.body.insertAdjacentHTML('beforeend',
        '<input id=drop role=listbox aria-expanded=true>')""")
    harness.page.evaluate("""document.getElementById('drop').addEventListener('keydown',
        (event) => event.target.setAttribute('aria-expanded', 'false'))""")
    harness.page.locator("#drop").press("Escape")
    assert harness.page.evaluate("stops") == 0
    harness.page.locator("#drop").press("Escape")
    assert harness.page.evaluate("stops") == 1


def test_each_chat_has_its_own_draft(harness: Harness) -> None:
    harness.log(chat=None)
    harness.box.fill("for a new one")
    wait_for_draft(harness, "new", "for a new one")
    harness.log(asked("u", "Hi"), chat="c1")
    expect(harness.box).to_have_value("")
    harness.box.fill("for the first")
    harness.log(asked("v", "Ho"), chat="c2")
    expect(harness.box).to_have_value("")
    assert draft(harness, "c1") == "for the first"
    harness.log(asked("u", "Hi"), chat="c1")
    expect(harness.box).to_have_value("for the first")
    harness.reload().log(asked("u", "Hi"), chat="c1")
    expect(harness.box).to_have_value("for the first")
    harness.log(chat=None)
    expect(harness.box).to_have_value("for a new one")


def test_a_restored_draft_sends_an_input_event(harness: Harness) -> None:
    harness.log(chat=None)
    harness.box.fill("precious")
    wait_for_draft(harness, "new", "precious")
    harness.reload()
    harness.page.evaluate("""window.heard = ''; document.querySelector('#message textarea')
        .addEventListener('input', (event) => { heard = event.target.value; })""")
    harness.log(chat=None)
    assert harness.page.evaluate("heard") == "precious"


def test_text_typed_while_the_page_loads_stays(harness: Harness) -> None:
    harness.page.evaluate("localStorage.setItem('linly.draft.c1', 'older')")
    harness.box.fill("typed at once")
    harness.log(asked("u", "Hi"))
    expect(harness.box).to_have_value("typed at once")


def answered(harness: Harness, sent: str | None) -> None:
    """The server confirms the message, or another action."""
    harness.answer("actions/send", sent=sent)
    harness.control("send")


def test_a_sent_message_is_no_draft(harness: Harness) -> None:
    harness.page.evaluate(SENDS)
    harness.log(asked("u", "Hi"))
    harness.box.fill("And now?")
    wait_for_draft(harness, "c1", "And now?")
    harness.box.press("Enter")
    answered(harness, None)
    assert draft(harness, "c1") == "And now?"
    answered(harness, "And now?")
    assert harness.box.input_value() == ""
    assert draft(harness, "c1") is None


def test_text_typed_behind_a_sent_message_stays(harness: Harness) -> None:
    harness.page.evaluate(SENDS)
    harness.log(asked("u", "Hi"))
    harness.box.fill("And now?")
    harness.box.press("Enter")
    harness.box.type("And now? Or")
    harness.box.press("ArrowLeft")
    answered(harness, "And now?")
    assert harness.box.input_value() == "And now? Or"
    assert draft(harness, "c1") == "And now? Or"
    harness.box.type("x")
    assert harness.box.input_value() == "And now? Oxr"
    answered(harness, None)
    harness.log(asked("u", "Hi"), asked("v", "And now?"))
    assert harness.box.input_value() == "And now? Oxr"


def test_a_text_that_was_rewritten_meanwhile_stays(harness: Harness) -> None:
    harness.page.evaluate(SENDS)
    harness.log(asked("u", "Hi"))
    harness.box.fill("And now?")
    harness.box.press("Enter")
    harness.box.fill("So: And now?")
    answered(harness, "And now?")
    assert harness.box.input_value() == "So: And now?"
    assert draft(harness, "c1") == "So: And now?"


def test_a_repeated_question_leaves_the_box_only_once_it_arrived(harness: Harness) -> None:
    harness.page.evaluate(SENDS)
    harness.log(asked("u", "go on"), replied("a", "Arr"))
    harness.box.fill("go on")
    wait_for_draft(harness, "c1", "go on")
    harness.box.press("Enter")
    harness.log(asked("u", "go on"), replied("a", "Arr, more"))
    assert harness.box.input_value() == "go on"
    assert draft(harness, "c1") == "go on"


def test_a_chat_left_while_its_message_was_sent(harness: Harness) -> None:
    harness.page.evaluate(SENDS)
    harness.log(asked("u", "Hi"))
    harness.box.fill("And now?")
    harness.box.press("Enter")
    harness.box.type(" More")
    harness.log(asked("v", "Ho"), chat="c2")
    harness.box.fill("And now? is for the second")
    answered(harness, "And now?")
    assert harness.box.input_value() == "And now? is for the second"
    assert draft(harness, "c1") == " More"


OPEN = """async (id) => {
  const { act } = await import(new URL('page/actions.js', document.baseURI));
  await act({ kind: 'open', id });
}"""


def test_text_typed_after_choosing_another_chat_goes_there(harness: Harness) -> None:
    harness.page.evaluate("localStorage.setItem('linly.draft.c2', 'older')")
    harness.log(asked("u", "Hi"))
    harness.box.fill("half")
    harness.page.evaluate(OPEN, "c2")
    harness.box.fill("half of it")
    harness.log(asked("v", "Ho"), chat="c2")
    assert harness.box.input_value() == "older\n of it"
    assert draft(harness, "c1") == "half"


def test_typed_text_stays_if_opening_another_chat_fails(harness: Harness) -> None:
    harness.log(asked("u", "Hi"))
    harness.box.fill("half")
    harness.refuse("actions/open", "This chat does not exist.", 404)
    harness.page.evaluate(OPEN, "c2")
    harness.box.fill("half of it")
    harness.log(asked("u", "Hi"), chat="c3")
    assert harness.box.input_value() == ""
    assert draft(harness, "c1") == "half of it"


def test_a_log_that_skips_the_new_chat(harness: Harness) -> None:
    harness.page.evaluate(SENDS)
    harness.log(asked("u", "Hi"))
    harness.box.fill("half")
    harness.control("new_chat")
    harness.box.fill("Hello")
    harness.box.press("Enter")
    harness.log(asked("v", "Hello"), chat="c2")
    answered(harness, "Hello")
    assert harness.box.input_value() == ""
    assert draft(harness, "c1") == "half"
    assert draft(harness, "c2") is None
    assert draft(harness, "new") is None


@pytest.mark.parametrize("order", ["log first", "answer first"])
def test_the_first_message_of_a_chat(harness: Harness, order: str) -> None:
    harness.page.evaluate(SENDS)
    harness.log(chat=None)
    harness.box.fill("Hello")
    wait_for_draft(harness, "new", "Hello")
    harness.box.press("Enter")
    harness.box.type("Next")
    if order == "answer first":
        answered(harness, "Hello")
        assert harness.box.input_value() == "Next"
    harness.log(asked("u", "Hello"), chat="c1")
    assert harness.box.input_value() == "Next"
    assert draft(harness, "c1") == "Next"
    assert draft(harness, "new") is None
    harness.log(asked("u", "Hello"), replied("a", "Arr"), chat="c1")
    if order == "log first":
        harness.box.fill("Hello again")
        answered(harness, "Hello")
        assert harness.box.input_value() == "Hello again"  # it has been removed once


def test_a_message_sent_before_the_first_log(harness: Harness) -> None:
    harness.page.evaluate(SENDS)
    harness.box.fill("Hello")
    harness.box.press("Enter")
    harness.box.type("Next")
    answered(harness, "Hello")
    harness.log(chat=None)
    harness.log(asked("u", "Hello"), chat="c1")
    assert harness.box.input_value() == "Next"
    assert draft(harness, "c1") == "Next"
    assert draft(harness, "new") is None


def test_the_address_names_the_shown_chat(opened: Open) -> None:
    harness = opened("?view=api&chat=c9")
    assert harness.page.url.endswith("?view=api&chat=c9")  # until the log has shown a chat
    harness.log(asked("u", "Hi"), chat="c1")
    assert harness.page.url.endswith("?view=api&chat=c1")
    harness.log(chat=None)
    assert harness.page.url.endswith("?view=api")
