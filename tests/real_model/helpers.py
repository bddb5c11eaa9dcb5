"""What the tests of the whole way share: pictures for the documents, and greedy replies."""

from __future__ import annotations

import os
from pathlib import Path

from playwright.sync_api import expect

from tests.web.browser import ChatPage


def save_screenshot(chat: ChatPage, name: str) -> None:
    """A picture for the documents, where `SCREENSHOTS` names a folder for them."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        chat.page.evaluate("window.scrollTo(0, 0)")
        chat.page.mouse.move(0, 0)
        chat.page.wait_for_timeout(400)  # what fades in has done so
        chat.page.screenshot(path=Path(folder) / f"{name}.png")


def set_greedy(chat: ChatPage) -> None:
    """Greedy, so that the reply is the same every time."""
    settings = chat.page.locator("#settings")
    settings.get_by_role("button").first.click()
    settings.locator("input[type=radio][value=precise]").check()
    expect(settings.get_by_role("spinbutton").nth(1)).to_have_value("0")
    settings.get_by_role("button").first.click()
