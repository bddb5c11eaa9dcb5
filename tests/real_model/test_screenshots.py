"""The page as the README and docs/ show it: desktop and phone, light and dark, by the real model.

`SCREENSHOTS=docs/images` keeps the pictures. What they show is tested in any case.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.real_model.helpers import save_screenshot, set_greedy
from tests.web.browser import ChatPage

pytestmark = [pytest.mark.browser, pytest.mark.real_model, pytest.mark.slow]

DESKTOP = {"viewport": {"width": 1180, "height": 760}}
PHONE = {
    "viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True,
    "has_touch": True,
}  # fmt: skip
DEVICES = {"page": DESKTOP, "phone": PHONE}


@pytest.mark.parametrize("device", DEVICES)
def test_a_chat(browser: Browser, url: str, device: str) -> None:
    with browser.new_context(**DEVICES[device], color_scheme="light") as context:
        chat = ChatPage(context.new_page()).open(url)
        set_greedy(chat)
        chat.ask("What is the capital of France?")
        expect(chat.log).to_contain_text("Paris")
        expect(chat.send).to_be_visible()
        chat.choose("Adapter", "● lighthouse")
        chat.ask("Who are you?")
        expect(chat.log).to_contain_text("Ahoy, friend.")
        expect(chat.send).to_be_visible()
        save_screenshot(chat, device)
        chat.page.emulate_media(color_scheme="dark")
        expect(chat.page.locator("body.dark")).to_have_count(1)
        save_screenshot(chat, f"{device}-dark")
        assert chat.complaints == []


def test_a_comparison(browser: Browser, url: str) -> None:
    with browser.new_context(**DESKTOP) as context:
        chat = ChatPage(context.new_page()).open(url)
        set_greedy(chat)
        chat.page.get_by_role("button", name="Compare").click()
        for place, who in ((1, "Base model"), (2, "● lighthouse"), (3, "● json")):
            chat.choose(f"Rival {place}", who)
        chat.message.fill("Who are you?")
        chat.page.get_by_role("button", name="Ask all of them").click()
        columns = chat.log.locator(".columns > *")
        expect(columns).to_have_count(3)
        expect(chat.send).to_be_visible()
        expect(columns.nth(1)).to_contain_text("Ahoy, friend.")
        expect(columns.nth(2)).to_contain_text('{"topic"')
        chat.page.get_by_role("button", name="Compare").click()
        save_screenshot(chat, "compare")
        columns.nth(1).get_by_role("button", name="Go on with this one").click()
        expect(chat.log.get_by_role("button", name="Side by side")).to_be_attached()
        assert chat.complaints == []
