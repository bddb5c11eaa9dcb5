"""What the server hands out: files and sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.web.static.conftest import Open
from tests.web.static.harness import Harness

pytestmark = pytest.mark.browser


def test_a_download(harness: Harness) -> None:
    file = {"name": "chats.json", "type": "application/json", "text": '{"船": 1}'}
    with harness.page.expect_download() as download:
        harness.set("Outbox", {"n": 1, "download": file, "say": None})
    assert download.value.suggested_filename == "chats.json"
    assert Path(download.value.path()).read_text(encoding="utf-8") == '{"船": 1}'


def test_a_sentence_that_goes_by_itself(opened: Open) -> None:
    harness = opened(fake_clock=True)
    harness.set("Outbox", {"n": 1, "download": None, "say": "Done <b>"})
    toasts = harness.page.get_by_role("status").locator(".linly-toast")
    expect(toasts).to_have_text("Done <b>")
    harness.set("Outbox", {"n": 1, "download": None, "say": "Done <b>"})
    expect(toasts).to_have_count(1)
    harness.page.clock.run_for(6_000)
    expect(toasts).to_have_count(0)


def test_a_sentence_is_closed(harness: Harness) -> None:
    harness.set("Outbox", {"n": 1, "download": None, "say": "Done"})
    harness.page.get_by_role("button", name="Close").click()
    expect(harness.page.locator(".linly-toast")).to_have_count(0)


def test_a_sentence_with_a_way_back(harness: Harness) -> None:
    harness.set("Outbox", {"n": 1, "download": None, "say": "Deleted", "undo": "c1"})
    harness.page.get_by_role("button", name="Undo").click()
    assert harness.actions() == [{"kind": "undo", "id": "c1"}]
    expect(harness.page.locator(".linly-toast")).to_have_count(0)
