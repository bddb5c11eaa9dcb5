"""The program is killed in the middle of a reply, and started again: the whole way."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.real_model.helpers import set_greedy
from tests.test_app import read_until, started
from tests.web.browser import PATIENCE, ChatPage

pytestmark = [pytest.mark.browser, pytest.mark.real_model, pytest.mark.slow]
HALF_A_SECOND = 500  # milliseconds: no more than that may be lost


def test_nothing_is_lost_and_the_page_comes_back_by_itself(
    browser: Browser, default_folder: Path, tmp_path: Path
) -> None:
    flags = ("--data_dir", str(tmp_path), "--threads", "1")
    with browser.new_context() as context:
        chat = ChatPage(context.new_page())
        with started(*flags) as (process, address):
            read_until(process, "Ready after")
            chat.open(address)
            set_greedy(chat)  # a drawn story may end by itself, before or right behind "Continue"
            chat.ask("Write a very long story about the sea, with many chapters.")
            body = chat.log.locator("article.assistant .body")
            chat.page.set_default_timeout(4 * PATIENCE)  # a real model on a busy machine
            chat.page.wait_for_function(
                "document.querySelector('article.assistant .body')?.innerText.length > 40"
            )
            seen = body.inner_text()
            chat.message.press_sequentially("a thought")
            chat.page.wait_for_timeout(HALF_A_SECOND)
            process.send_signal(signal.SIGKILL)
            process.wait()
        port = int(address.rpartition(":")[2])
        with started(*flags, port=port) as (process, _):
            # The page notices that the server was gone, and loads itself again.
            expect(chat.log).to_contain_text("Interrupted")
            assert body.inner_text().startswith(seen.rstrip()[:-1])
            expect(chat.message).to_have_value("a thought")
            expect(chat.sidebar).to_contain_text("Write a very long story")
            chat.log.get_by_role("button", name="Continue").click()
            expect(chat.stop).to_be_visible()
            longer = "length => document.querySelector('article.assistant .body').innerText.length"
            chat.page.wait_for_function(f"{longer} > length", arg=len(seen) + 20)
            chat.stop.click()
            expect(chat.log).to_contain_text("Stopped")
