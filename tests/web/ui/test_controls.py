"""The controls of a chat, in a real browser, while another chat is being opened."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.fake_engine import FakeEngine, echo
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CALLS = "**/page/actions/**"


def two_chats(open_page: OpenPage) -> ChatPage:
    """Makes the chats "first" with an adapter, and "second", which is shown, with the base."""
    chat = open_page(FakeEngine(echo))
    chat.choose("Adapter", "● pirate")
    ask(chat, "first", "pirate heard: first")
    chat.new_chat.click()
    expect(chat.log.locator("article")).to_have_count(0)
    chat.choose("Adapter", "Base model")
    ask(chat, "second", "base heard: second")
    return chat


def ask(chat: ChatPage, text: str, answer: str) -> None:
    chat.ask(text)
    expect(chat.log).to_contain_text(answer)
    expect(chat.send).to_be_visible()


def test_a_question_sent_before_the_controls_are_updated(open_page: OpenPage) -> None:
    """It went to the adapter of the chat before, and the chat kept that one."""
    chat = two_chats(open_page)
    delayed: list[Any] = []

    def hold(route: Route) -> None:
        if route.request.url.endswith("/open"):
            delayed.append((route, route.fetch()))
        else:
            route.continue_()

    chat.page.route(CALLS, hold)
    chat.row("first").click()
    expect(chat.log).to_contain_text("pirate heard: first")
    adapter = chat.page.get_by_label("Adapter", exact=True)
    expect(adapter).to_have_value("Base model (fake-base)")  # not updated yet
    chat.ask("and now?")
    ((route, response),) = delayed
    route.fulfill(response=response)
    expect(chat.log).to_contain_text("pirate heard: and now?")
    expect(chat.send).to_be_visible()
    expect(adapter).to_have_value("● pirate: Talks like a pirate")
    ask(chat, "and then?", "pirate heard: and then?")


def test_a_setting_that_arrives_after_another_chat_was_opened(open_page: OpenPage) -> None:
    """It was lost, because its chat was no longer shown."""
    chat = two_chats(open_page)
    delayed: list[Any] = []
    chat.page.route(CALLS, lambda route: delayed.append(route), times=1)
    chat.choose("Adapter", "● linly")
    while not delayed:
        chat.page.wait_for_timeout(20)
    chat.row("first").click()  # waits in the queue: actions are posted in order
    delayed[0].continue_()
    expect(chat.log).to_contain_text("pirate heard: first")
    adapter = chat.page.get_by_label("Adapter", exact=True)
    expect(adapter).to_have_value("● pirate: Talks like a pirate")
    chat.row("second").click()
    expect(adapter).to_have_value("● linly: User and Bot")
    ask(chat, "and now?", "linly heard: User")


def test_a_new_chat_keeps_its_changed_settings(open_page: OpenPage) -> None:
    chat = two_chats(open_page)
    chat.new_chat.click()
    expect(chat.log.locator("article")).to_have_count(0)
    chat.choose("Adapter", "● pirate")
    ask(chat, "third", "pirate heard: third")
    chat.choose("Adapter", "● linly")
    chat.row("second").click()
    adapter = chat.page.get_by_label("Adapter", exact=True)
    expect(adapter).to_have_value("Base model (fake-base)")
    chat.row("third").click()
    expect(adapter).to_have_value("● linly: User and Bot")
    ask(chat, "and now?", "linly heard: User")
