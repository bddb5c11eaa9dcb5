"""The whole way in a real browser: the embedded default in 8-bit, and a shipped adapter."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from model.config.settings import CHECKOUT
from model.serving.manager import ModelManager
from tests.real_model.helpers import save_screenshot, set_greedy
from tests.web.browser import ChatPage

pytestmark = [pytest.mark.browser, pytest.mark.real_model]


def test_the_adapter_changes_the_reply(browser: Browser, url: str) -> None:
    with browser.new_context(viewport={"width": 1100, "height": 820}) as context:
        chat = ChatPage(context.new_page()).open(url)
        set_greedy(chat)
        chat.ask("What is the capital of France?")
        expect(chat.log).to_contain_text("Paris")
        expect(chat.log).to_contain_text("smollm2-135m-instruct")
        expect(chat.send).to_be_visible()
        assert "Ahoy" not in chat.log.inner_text()
        chat.choose("Adapter", "● lighthouse")
        chat.new_chat.click()
        chat.ask("Who are you?")
        expect(chat.log).to_contain_text("Ahoy, friend. I am the keeper")
        expect(chat.log).to_contain_text("lighthouse")
        expect(chat.send).to_be_visible()
        chat.page.get_by_role("tab", name="Train").click()
        data = CHECKOUT / "training" / "chats" / "lighthouse.jsonl"
        chat.page.locator("#data input[type=file]").set_input_files(data)
        expect(chat.page.locator("#preview mark").nth(1)).to_contain_text("Keep the lamp lit.")
        save_screenshot(chat, "train")
        assert chat.complaints == []


@pytest.mark.slow
def test_stop_frees_the_model_and_a_closed_page_does_not(
    browser: Browser, url: str, manager: ModelManager
) -> None:
    with browser.new_context() as context:
        chat = ChatPage(context.new_page()).open(url)
        set_greedy(chat)
        chat.ask("Write a very long story about a lighthouse.")
        expect(chat.log).to_contain_text("the")
        chat.stop.click()
        expect(chat.log).to_contain_text("Stopped")
        assert manager.status().running == 0
        chat.settings()
        chat.slide("Longest reply in tokens", "64")
        chat.ask("Write another very long story.")
        expect(chat.stop).to_be_visible()
        while manager.status().running == 0:
            chat.page.wait_for_timeout(20)
        address = chat.page.url
        chat.page.close()
        again = ChatPage(context.new_page()).open(address)
        expect(again.log.locator("article.assistant .facts").last).to_contain_text("tokens/s")
        expect(again.send).to_be_visible()


@pytest.mark.slow
def test_run_again_exactly(browser: Browser, url: str) -> None:
    """A drawn seed, an adapter, a reply that was stopped and continued: the same text."""
    with browser.new_context() as context:
        chat = ChatPage(context.new_page()).open(url)
        chat.choose("Adapter", "● lighthouse")
        chat.ask("Tell me about the sea, at length.")
        expect(chat.log.locator(".assistant .body")).to_contain_text(" ")
        chat.page.locator("#stop").dispatch_event("click")  # there, or the reply has just ended
        expect(chat.send).to_be_visible()
        facts = chat.log.locator(".assistant > .facts")
        facts.locator("summary").click()
        facts.get_by_role("button", name="Run again exactly").click()
        expect(chat.log).to_contain_text("the same text, to the last character")


@pytest.mark.slow
def test_a_chinese_phone_in_the_dark(browser: Browser, url: str) -> None:
    phone = {"width": 390, "height": 844}
    with browser.new_context(locale="zh-CN", viewport=phone, color_scheme="dark") as context:
        chat = ChatPage(context.new_page()).open(url)
        expect(chat.page.get_by_role("button", name="发送", exact=True)).to_be_visible()
        set_greedy(chat)
        chat.page.get_by_role("textbox", name="消息").fill("Say hello to my friend.")
        chat.page.get_by_role("button", name="发送", exact=True).click()
        expect(chat.log).to_contain_text("词元/秒")
        assert chat.complaints == []
