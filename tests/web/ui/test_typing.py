"""Typed text is not lost, while a message is being sent or after a refused edit."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Route, expect

from tests.fake_engine import FakeEngine, echo
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage
from tests.web.ui.test_compare import BASE, PIRATE, ask_all, choose

pytestmark = [pytest.mark.browser, pytest.mark.slow]

BEGUN = re.compile("chat=")


def hold(chat: ChatPage) -> tuple[list[Route], Callable[[], None]]:
    """Delays the page's requests until `release` is called."""
    delayed: list[Route] = []

    def release() -> None:
        for route in delayed:
            route.continue_()
        chat.page.unroute("**/page/actions/*")

    chat.page.route("**/page/actions/*", lambda route: delayed.append(route))
    return delayed, release


def draft(chat: ChatPage, key: str) -> str | None:
    found: str | None = chat.page.evaluate("key => localStorage.getItem(`linly.draft.${key}`)", key)
    return found


def shown_chat(chat: ChatPage) -> str:
    return chat.page.url.partition("chat=")[2]


def wait_for_draft(chat: ChatPage, key: str, text: str | None) -> None:
    chat.page.wait_for_function(
        "([key, text]) => localStorage.getItem(`linly.draft.${key}`) === text", arg=[key, text]
    )


def test_text_typed_while_a_message_is_sent_stays(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    delayed, release = hold(chat)
    chat.message.press_sequentially("first")
    chat.message.press("Enter")
    chat.message.press_sequentially(" second")
    expect(chat.message).to_have_value("first second")
    chat.page.wait_for_timeout(300)
    assert len(delayed) == 1
    release()
    expect(chat.log).to_contain_text("base heard: first")
    expect(chat.message).to_have_value(" second")
    expect(chat.page).to_have_url(BEGUN)
    wait_for_draft(chat, shown_chat(chat), " second")
    assert draft(chat, "new") is None
    chat.page.reload()
    expect(chat.message).to_have_value(" second")
    expect(chat.send).to_be_visible()
    chat.message.press("Enter")
    expect(chat.log).to_contain_text(re.compile(r"base heard:\s+second"))
    expect(chat.message).to_have_value("")
    wait_for_draft(chat, shown_chat(chat), None)


# Enter, and one more word before Gradio reports it.
ENTER_AND_MORE = """(box, more) => {
  for (const kind of ['keydown', 'keypress']) {
    const init = {key: 'Enter', code: 'Enter', bubbles: true, cancelable: true};
    box.dispatchEvent(new KeyboardEvent(kind, init));
  }
  box.value += more;
  box.dispatchEvent(new Event('input', {bubbles: true}));
}"""


def test_text_typed_just_after_enter_is_not_sent(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.message.press_sequentially("first")
    chat.message.evaluate(ENTER_AND_MORE, " second")
    expect(chat.log).to_contain_text("base heard: first")
    expect(chat.log).not_to_contain_text("second")
    expect(chat.message).to_have_value(" second")


def test_a_sent_message_leaves_an_empty_box(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.message.press_sequentially("two lines")
    chat.send.click()
    expect(chat.log).to_contain_text("base heard: two lines")
    expect(chat.message).to_have_value("")
    wait_for_draft(chat, shown_chat(chat), None)
    chat.page.reload()
    expect(chat.log).to_contain_text("base heard: two lines")
    expect(chat.message).to_have_value("")


@pytest.mark.parametrize("sent_early", [True, False])
def test_text_typed_while_a_new_chat_is_opened_stays(open_page: OpenPage, sent_early: bool) -> None:
    """It went into the draft of the chat before, and an empty message was sent."""
    chat = open_page(FakeEngine(echo))
    chat.ask("first")
    expect(chat.log).to_contain_text("base heard: first")
    first = shown_chat(chat)
    chat.message.fill("half a")
    delayed, release = hold(chat)
    chat.new_chat.click()
    chat.message.fill("Who are you?")
    chat.page.wait_for_timeout(300)  # until it is stored
    assert len(delayed) == 1
    if sent_early:
        chat.send.click()
    release()
    if not sent_early:
        expect(chat.log).not_to_contain_text("first")
        expect(chat.message).to_have_value("Who are you?")
        chat.send.click()
    expect(chat.log).to_contain_text("base heard: Who are you?")
    expect(chat.message).to_have_value("")
    assert shown_chat(chat) != first
    assert draft(chat, first) == "half a"
    wait_for_draft(chat, shown_chat(chat), None)


def test_comparing_without_a_text_keeps_the_box(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.ask("who?")
    expect(chat.log).to_contain_text("base heard: who?")
    expect(chat.send).to_be_visible()
    choose(chat, BASE, PIRATE)
    _, release = hold(chat)
    ask_all(chat)
    chat.message.press_sequentially("a thought")
    chat.page.wait_for_timeout(300)
    release()
    expect(chat.log).to_contain_text("pirate heard: who?")
    expect(chat.message).to_have_value("a thought")
    wait_for_draft(chat, shown_chat(chat), "a thought")


@pytest.mark.parametrize("reloaded", [False, True])
def test_a_refused_edit_stays(open_page: OpenPage, reloaded: bool) -> None:
    engine = FakeEngine(lambda prompt, request: ["heard ", "it ", "all "], ticking=True)
    chat = open_page(engine)
    chat.ask("first words")
    engine.tick()
    expect(chat.log).to_contain_text("heard")
    chat.log.get_by_role("button", name="Edit").click()
    box = chat.log.get_by_role("textbox", name="Edit what you wrote")
    box.fill("better words")
    chat.log.get_by_role("button", name="Ask again").click()
    expect(chat.page.locator(".linly-toast")).to_be_visible()
    expect(box).to_be_enabled()
    expect(box).to_have_value("better words")
    engine.tick(2)
    expect(chat.send).to_be_visible()
    if reloaded:
        chat.page.reload()
        expect(box).to_have_value("better words")
    chat.log.get_by_role("button", name="Ask again").click()
    engine.tick(3)
    expect(box).to_have_count(0)
    expect(chat.log.locator("article.user")).to_have_text(re.compile("better words"))
    chat.log.get_by_role("button", name="Version before").first.click()
    expect(chat.log.locator("article.user")).to_have_text(re.compile("first words"))
    expect(box).to_have_count(0)  # it arrived, and is no longer stored
