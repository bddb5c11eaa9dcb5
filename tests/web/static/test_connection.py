"""A server that is gone, and back."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.web.static.conftest import Open
from tests.web.static.harness import Harness

pytestmark = pytest.mark.browser

ONLINE = "window.dispatchEvent(new Event('online'))"
SEEN = "document.dispatchEvent(new Event('visibilitychange'))"


@pytest.fixture
def harness(opened: Open) -> Harness:
    harness = opened(fake_clock=True)
    harness.page.evaluate("window.first = true")
    harness.set("Live", {"beat": 1, "replies": {}})
    return harness


def reloaded(harness: Harness) -> bool:
    return harness.page.evaluate("window.first") is None


def test_beats_keep_the_page_calm(harness: Harness) -> None:
    harness.site.healthy = False
    for beat in range(2, 6):
        harness.page.clock.run_for(10_000)
        expect(harness.page.locator(".linly-banner")).to_have_count(0)
        harness.set("Live", {"beat": beat, "replies": {}})
    expect(harness.page.locator(".linly-banner")).to_have_count(0)


def test_the_page_is_loaded_again_when_the_server_is_back(harness: Harness) -> None:
    harness.site.healthy = False
    harness.page.clock.run_for(10_000)
    harness.set("Live", {"beat": 1, "replies": {"a": {"text": "no beat", "notice": ""}}})
    harness.page.clock.run_for(4_000)
    banner = harness.page.locator(".linly-banner")
    expect(banner).to_have_role("status")
    expect(banner).to_have_text("Connection lost. Trying again …")
    harness.page.clock.run_for(4_000)
    assert not reloaded(harness)
    harness.site.healthy = True
    with harness.page.expect_navigation():
        harness.page.clock.run_for(2_000)
    harness.wait()
    assert reloaded(harness)
    expect(banner).to_have_count(0)


def test_a_beat_after_all(harness: Harness) -> None:
    harness.site.healthy = False
    harness.page.clock.run_for(14_000)
    expect(harness.page.locator(".linly-banner")).to_be_visible()
    harness.set("Live", {"beat": 2, "replies": {}})
    expect(harness.page.locator(".linly-banner")).to_have_count(0)
    harness.site.healthy = True
    harness.page.clock.run_for(4_000)
    assert not reloaded(harness)


def test_a_hidden_page_is_left_alone(harness: Harness) -> None:
    hide = (
        "(hidden) => Object.defineProperty(document, 'hidden', {value: hidden, configurable: true})"
    )
    harness.page.evaluate(hide, True)
    harness.page.clock.run_for(20_000)
    expect(harness.page.locator(".linly-banner")).to_be_visible()
    assert not reloaded(harness)
    harness.page.evaluate(hide, False)
    with harness.page.expect_navigation():
        harness.page.clock.run_for(2_000)
    harness.wait()


@pytest.mark.parametrize("event", [ONLINE, SEEN])
def test_a_laptop_that_wakes_up(harness: Harness, event: str) -> None:
    harness.site.healthy = False
    now = harness.page.evaluate("Date.now()")
    harness.page.clock.set_fixed_time((now + 13_000) / 1000)  # no timer has run
    expect(harness.page.locator(".linly-banner")).to_have_count(0)
    harness.page.evaluate(event)
    expect(harness.page.locator(".linly-banner")).to_be_visible()


def test_it_is_not_loaded_again_and_again(harness: Harness) -> None:
    harness.site.healthy = False
    harness.page.clock.run_for(14_000)
    harness.site.healthy = True
    with harness.page.expect_navigation():
        harness.page.clock.run_for(2_000)
    harness.wait()
    harness.page.evaluate("window.first = true")
    harness.set("Live", {"beat": 1, "replies": {}})
    harness.page.clock.run_for(11_000)
    assert not reloaded(harness)
