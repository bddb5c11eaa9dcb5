"""Chats and replies over reloads, second tabs and restarts, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from model.translations import verbatim
from model.types import EngineRequest
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage
from web.access import AccessPolicy
from web.chats.store.chat_store import ChatStore
from web.chats.store.errors import StoreError
from web.chats.store.models import ChatMessage
from web.listen_socket import bind
from web.ui import tab_stream

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def words(count: int) -> Callable[[str, EngineRequest], list[str]]:
    return lambda prompt, request: [f"w{i} " for i in range(count)]


def second_tab(chat: ChatPage) -> ChatPage:
    return ChatPage(chat.page.context.new_page()).open(chat.page.url)


def test_a_reload_shows_the_same_chat(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.ask("remember me")
    expect(chat.log).to_contain_text("base heard: remember me")
    expect(chat.page).to_have_url(re.compile("chat="))
    chat.page.reload()
    expect(chat.log).to_contain_text("base heard: remember me")
    expect(chat.sidebar).to_contain_text("remember me")


def test_a_reply_goes_on_while_the_page_is_reloaded(open_page: OpenPage) -> None:
    engine = FakeEngine(words(6), ticking=True)
    chat = open_page(engine)
    chat.ask("go on")
    engine.tick(3)
    expect(chat.log).to_contain_text("w0 w1 w2")
    chat.page.reload()
    expect(chat.log).to_contain_text("w0 w1 w2")
    expect(chat.stop).to_be_visible()
    engine.tick(3)
    expect(chat.log).to_contain_text("w0 w1 w2 w3 w4 w5")
    expect(chat.log).to_contain_text("6 tokens in reply")
    assert engine.emitted[engine.requests[0].id] == 6


def test_a_reply_goes_on_while_the_page_is_closed(open_page: OpenPage) -> None:
    engine = FakeEngine(words(6), ticking=True)
    chat = open_page(engine)
    chat.ask("go on")
    engine.tick(2)
    expect(chat.log).to_contain_text("w0 w1")
    url, context = chat.page.url, chat.page.context
    chat.page.close()
    engine.tick(4)
    again = ChatPage(context.new_page()).open(url)
    expect(again.log).to_contain_text("w0 w1 w2 w3 w4 w5")


def test_a_second_tab_shows_the_stream_and_can_stop_it(open_page: OpenPage) -> None:
    engine = FakeEngine(words(50), ticking=True)
    chat = open_page(engine)
    chat.ask("go on")
    engine.tick(2)
    expect(chat.log).to_contain_text("w0 w1")
    other = second_tab(chat)
    expect(other.log).to_contain_text("w0 w1")
    engine.tick(2)
    expect(other.log).to_contain_text("w2 w3")
    other.stop.click()
    expect(chat.log).to_contain_text("Stopped")
    expect(chat.send).to_be_visible()
    assert engine.emitted[engine.requests[0].id] == 4


def test_a_reply_interrupted_by_a_restart_can_be_continued(
    browser: Browser, tmp_path: Path
) -> None:
    """The server dies; the next one shows the text so far, and continues it."""
    with browser.new_context() as context:
        engine = FakeEngine(words(9), ticking=True)
        manager = fake_manager(engine)
        manager.wait()
        with serving(manager, data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(url)
            chat.ask("go on")
            engine.tick(2)
            expect(chat.log).to_contain_text("w0 w1")
            chat.message.fill("a draft")
            chat.page.wait_for_timeout(500)
            number = chat.page.url.partition("chat=")[2]
        manager = fake_manager(FakeEngine(lambda p, r: [p[-3:], "and on"]))
        manager.wait()
        with serving(manager, data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(f"{url}?chat={number}")
            expect(chat.log).to_contain_text("w0 w1")
            expect(chat.log).to_contain_text("Interrupted")
            chat.log.get_by_role("button", name="Continue").click()
            expect(chat.log).to_contain_text("w0 w1 w1 and on")


def test_chats_of_other_visitors_are_not_shown(open_page: OpenPage, browser: Browser) -> None:
    chat = open_page(FakeEngine(echo))
    chat.ask("my secret")
    expect(chat.log).to_contain_text("base heard")
    with browser.new_context() as context:
        other = ChatPage(context.new_page()).open(chat.page.url)
        expect(other.page.get_by_text("This chat does not exist")).to_be_visible()
        expect(other.sidebar).to_contain_text("Your chats will be here")
        assert "secret" not in other.page.content()


def log_in(page: Page, url: str, user: str, password: str) -> ChatPage:
    page.goto(url)
    page.locator("input").nth(0).fill(user)
    page.locator("input[type=password]").fill(password)
    page.get_by_role("button", name="Login").click()
    page.locator("#message").wait_for()
    return ChatPage(page)


def test_an_account_has_its_chats_on_every_device(browser: Browser) -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    access = AccessPolicy({"anna": "a1", "bert": "b2"})
    with serving(manager, access) as url:
        with browser.new_context() as laptop:
            chat = log_in(laptop.new_page(), url, "anna", "a1")
            chat.ask("from the laptop")
            expect(chat.log).to_contain_text("base heard: from the laptop")
        with browser.new_context() as phone:
            chat = log_in(phone.new_page(), url, "anna", "a1")
            chat.row("from the laptop").click()
            expect(chat.log).to_contain_text("base heard: from the laptop")
        with browser.new_context() as others:
            chat = log_in(others.new_page(), url, "bert", "b2")
            expect(chat.sidebar).to_contain_text("Your chats will be here")


def test_search_rename_delete_and_undo(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    for text in ("about ships", "关于灯塔的问题"):
        chat.new_chat.click()
        expect(chat.log).not_to_contain_text("heard")
        chat.ask(text)
        expect(chat.log).to_contain_text(f"base heard: {text}")
    search = chat.sidebar.get_by_role("searchbox")
    search.fill("灯塔")
    expect(chat.row("about ships")).to_have_count(0)
    expect(chat.row("关于灯塔的问题")).to_be_visible()
    search.fill("")
    chat.tool("about ships", "Rename").click()
    chat.sidebar.get_by_role("textbox", name="Name of the chat").fill("Boats")
    chat.page.keyboard.press("Enter")
    expect(chat.row("Boats")).to_be_visible()
    chat.tool("Boats", "Delete").click()
    expect(chat.row("Boats")).to_have_count(0)
    chat.sidebar.get_by_role("button", name="Undo").click()
    expect(chat.row("Boats")).to_be_visible()
    chat.row("Boats").click()
    expect(chat.log).to_contain_text("base heard: about ships")


def test_export_and_import(open_page: OpenPage, tmp_path: Path) -> None:
    chat = open_page(FakeEngine(echo))
    chat.ask("keep this")
    expect(chat.log).to_contain_text("base heard: keep this")
    expect(chat.send).to_be_visible()
    chat.sidebar.get_by_text("Export and import").click()
    with chat.page.expect_download() as download:
        chat.sidebar.get_by_role("button", name="as Markdown").click()
    assert "base heard: keep this" in Path(download.value.path()).read_text()
    chat.sidebar.get_by_text("Export and import").click()
    with chat.page.expect_download() as download:
        chat.sidebar.get_by_role("button", name="as JSON").click()
    file = tmp_path / "chat.json"
    download.value.save_as(file)
    assert json.loads(file.read_text())
    chat.tool("keep this", "Delete").click()
    expect(chat.row("keep this")).to_have_count(0)
    chat.sidebar.locator("input[type=file]").set_input_files(file)
    expect(chat.row("keep this")).to_be_visible()
    expect(chat.log).to_contain_text("base heard: keep this")
    nonsense = tmp_path / "nonsense.json"
    nonsense.write_text("[[[[")
    chat.sidebar.locator("input[type=file]").set_input_files(nonsense)
    expect(chat.page.locator(".linly-toast")).to_contain_text("no")


def test_drafts_survive_for_each_chat(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.ask("first")
    expect(chat.log).to_contain_text("base heard: first")
    expect(chat.send).to_be_visible()
    chat.message.press_sequentially("half a thought")
    chat.new_chat.click()
    expect(chat.message).to_have_value("")
    chat.row("first").click()
    expect(chat.message).to_have_value("half a thought")
    chat.page.wait_for_timeout(500)
    chat.page.reload()
    expect(chat.message).to_have_value("half a thought")


def test_edit_and_branches(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.ask("first words")
    expect(chat.log).to_contain_text("base heard: first words")
    expect(chat.send).to_be_visible()
    chat.message.press("ArrowUp")  # edits the last message
    chat.log.get_by_role("textbox").fill("better words")
    chat.page.keyboard.press("Enter")
    expect(chat.log).to_contain_text("base heard: better words")
    assert "first words" not in chat.log.inner_text()
    chat.log.get_by_role("button", name="Version before").first.click()
    expect(chat.log).to_contain_text("base heard: first words")
    chat.page.reload()
    expect(chat.log).to_contain_text("base heard: first words")
    expect(chat.log).to_contain_text("1/2")


def test_a_stopped_reply_is_continued(open_page: OpenPage) -> None:
    def script(prompt: str, request: EngineRequest) -> list[str]:
        begun = prompt.split("assistant\n")[-1]
        return ["three ", "four "] if begun else ["one ", "two ", "never "]

    engine = FakeEngine(script, ticking=True)
    chat = open_page(engine)
    chat.ask("count")
    engine.tick(2)
    expect(chat.log).to_contain_text("one two")
    chat.stop.click()
    expect(chat.log).to_contain_text("Stopped")
    engine.tick(3)
    chat.log.get_by_role("button", name="Continue").click()
    expect(chat.log).to_contain_text("one two three four")


def test_the_page_recovers_when_the_store_can_be_read_again(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page shows the error, and recovers by itself."""
    chat = open_page(FakeEngine(echo))
    chat.ask("before")
    expect(chat.log).to_contain_text("base heard: before")
    expect(chat.send).to_be_visible()
    monkeypatch.setattr(tab_stream, "RETRY_SECONDS", 0.2)
    original = ChatStore.messages

    def broken(self: ChatStore, owner: str, number: str) -> dict[str, ChatMessage]:
        raise StoreError(verbatim("The chats cannot be read: the disk is gone", "Check that disk."))

    monkeypatch.setattr(ChatStore, "messages", broken)
    chat.message.fill("precious")
    chat.send.click()
    expect(chat.page.get_by_text("the disk is gone").first).to_be_visible()
    expect(chat.message).to_have_value("precious")
    chat.new_chat.click()
    monkeypatch.setattr(ChatStore, "messages", original)
    chat.row("before").click()
    expect(chat.log).to_contain_text("base heard: before")


def test_a_link_to_a_chat_survives_the_login(browser: Browser) -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, AccessPolicy({"anna": "a1"})) as url:
        with browser.new_context() as laptop:
            chat = log_in(laptop.new_page(), url, "anna", "a1")
            chat.ask("from the laptop")
            expect(chat.log).to_contain_text("base heard: from the laptop")
            link = chat.page.url
        with browser.new_context() as phone:
            chat = log_in(phone.new_page(), link, "anna", "a1")
            expect(chat.log).to_contain_text("base heard: from the laptop")


@pytest.mark.slow
def test_a_tab_from_before_a_restart_asks_in_its_own_chat(browser: Browser, tmp_path: Path) -> None:
    """The server is restarted under an open page: a message must not begin another chat, and its
    reply must be shown."""
    link = bind("127.0.0.1", 0)
    port = link.getsockname()[1]
    link.close()
    with browser.new_context() as context:
        manager = fake_manager(FakeEngine(echo))
        manager.wait()
        with serving(manager, data=tmp_path, port=port) as url:
            chat = ChatPage(context.new_page()).open(url)
            chat.ask("before")
            expect(chat.log).to_contain_text("base heard: before")
            expect(chat.send).to_be_visible()
        manager = fake_manager(FakeEngine(echo))
        manager.wait()
        with serving(manager, data=tmp_path, port=port):
            chat.ask("after")
            expect(chat.log).to_contain_text("base heard: after")
            expect(chat.log).to_contain_text("base heard: before")
            expect(chat.sidebar.get_by_role("listitem")).to_have_count(1)
