"""The tab's connection: lost, dead, refused, and restored."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from tests.web.ui.static.conftest import Open
from tests.web.ui.static.harness import Harness, asked, replied

pytestmark = pytest.mark.browser

LOST = "Connection lost. Trying again …"
AWAY = {"way": {"code": 1006, "reason": ""}, "head": 0}
BLOCKED = {"way": {"code": 1006, "reason": ""}, "head": 200}
FULL = {"way": {"code": 4429, "reason": "You have too many tabs of this page open. Close some."}}
BACK = {"way": "open", "head": 200}
RETRIES = 8_000  # milliseconds in which a retry happens, also after a long absence
SEEN = "document.dispatchEvent(new Event('visibilitychange'))"
ONLINE = "window.dispatchEvent(new Event('online'))"
RETURNED = "window.dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"


@pytest.fixture
def harness(opened: Open) -> Harness:
    return marked(opened(fake_clock=True))


def marked(harness: Harness) -> Harness:
    harness.page.evaluate("window.first = true")
    return harness


def reloaded(harness: Harness) -> bool:
    return harness.page.evaluate("window.first") is None


def run(harness: Harness, milliseconds: int) -> None:
    """Advances the fake clock in steps, so that asynchronous work can run between them."""
    for _ in range(0, milliseconds, 500):
        harness.page.clock.run_for(500)


def banner(harness: Harness) -> Locator:
    return harness.page.locator(".linly-banner")


def count(harness: Harness) -> int:
    return len(harness.connections())


def test_a_lost_connection_shows_a_banner_until_it_is_back(opened: Open) -> None:
    harness = marked(opened("?chat=c1", fake_clock=True))
    harness.log(asked("u", "Hi"), replied("a", "Arr", state="streaming"))
    harness.live(a="Arr, me")
    harness.box.fill("half a sen")
    harness.server(**AWAY)
    harness.drop()
    expect(banner(harness)).to_have_count(0)
    run(harness, 1_500)
    expect(banner(harness)).to_have_role("status")
    expect(banner(harness)).to_have_text(LOST)
    run(harness, 20_000)
    expect(banner(harness)).to_have_text(LOST)
    harness.server(**BACK)
    run(harness, RETRIES)
    expect(banner(harness)).to_have_count(0)
    assert harness.connections()[-1] == "page/events?language=en&chat=c1"
    harness.log(asked("u", "Hi"), replied("a", "Arr", state="streaming"))
    harness.live(a="Arr, me hearties")
    expect(harness.message("a").locator(".body")).to_have_text("Arr, me hearties")
    expect(harness.box).to_have_value("half a sen")
    assert not reloaded(harness)


def test_a_short_break_shows_no_banner(harness: Harness) -> None:
    harness.drop()
    harness.page.clock.run_for(500)
    assert count(harness) == 2
    run(harness, 3_000)
    expect(banner(harness)).to_have_count(0)
    assert count(harness) == 2


def test_retries_become_rarer(harness: Harness) -> None:
    harness.server(**AWAY)
    harness.drop()
    run(harness, 120_000)
    assert 15 < count(harness) < 60


def test_one_retry_at_a_time(harness: Harness) -> None:
    """An unstable network began another series of retries each time."""
    harness.server(**AWAY)
    harness.drop()
    run(harness, 30_000)
    for _ in range(20):
        harness.page.evaluate(ONLINE)
    before = count(harness)
    run(harness, 20_000)
    assert count(harness) - before < 9


def test_events_of_an_older_connection_are_ignored(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), replied("a", "Arr"))
    harness.sidebar({"id": "c1", "title": "Ships", "updated": 0, "running": False})
    harness.drop()
    run(harness, 1_000)
    messages = {"order": ["u", "a"], "changed": {"u": asked("u", "Ho")}}
    harness.event(
        log={"chat": "c1", "language": "en", "messages": messages, "comparison": None},
        sidebar={"language": "en", "chats": {"order": ["c1"], "changed": {}}},
    )
    expect(harness.message("u").locator(".body")).to_have_text("Ho")
    expect(harness.page.locator("article")).to_have_count(1)
    expect(harness.page.get_by_text("Your chats will be here.")).to_be_visible()


def test_replies_have_new_numbers_after_a_reconnect(harness: Harness) -> None:
    both = replied("a", "", state="streaming"), replied("b", "", state="streaming")
    harness.log(*both)
    harness.live(a="one", b="two")
    harness.drop()
    run(harness, 1_000)
    harness.log(*both)
    harness.live(b="two and", a="one and")
    harness.live(b="two and more", a="one and less")
    expect(harness.message("a").locator(".body")).to_have_text("one and less")
    expect(harness.message("b").locator(".body")).to_have_text("two and more")


def test_an_ended_reply_keeps_the_text_that_was_streamed(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), replied("a", "", state="streaming"))
    harness.live(a="Arr")
    harness.live(a="Arr, matey 🏴")
    harness.log(asked("u", "Hi"), replied("a", None, facts="3 tokens"))
    expect(harness.message("a").locator(".body")).to_have_text("Arr, matey 🏴")
    expect(harness.message("a").locator(".facts")).to_have_text("3 tokens")
    assert count(harness) == 1
    harness.log(
        asked("u", "Hi"), replied("a", None, facts="4 tokens")
    )  # it has no listener any more
    run(harness, 1_000)
    assert count(harness) == 2
    harness.log(asked("u", "Hi"), replied("a", "Arr, matey"))
    expect(harness.message("a").locator(".body")).to_have_text("Arr, matey")


def test_signs_of_life_keep_the_connection(harness: Harness) -> None:
    for _ in range(6):
        run(harness, 10_000)
        harness.event(beat=True)
    expect(banner(harness)).to_have_count(0)
    assert count(harness) == 1


def test_a_dead_connection_is_noticed_without_a_close_event(harness: Harness) -> None:
    harness.server(**AWAY)
    run(harness, 24_000)
    assert count(harness) == 1
    run(harness, 4_000)
    assert harness.page.evaluate("harness.sockets[0].readyState") == 2  # closed by the page
    expect(banner(harness)).to_have_text(LOST)
    harness.server(**BACK)
    run(harness, RETRIES)
    expect(banner(harness)).to_have_count(0)


def test_a_connection_that_never_opens_is_given_up(harness: Harness) -> None:
    harness.server(way="silent")
    harness.drop()
    run(harness, 1_000)
    assert count(harness) == 2
    run(harness, 20_000)
    assert count(harness) == 2
    harness.server(**BACK)
    run(harness, 8_000)
    assert count(harness) == 3
    expect(banner(harness)).to_have_count(0)


@pytest.mark.parametrize("event", [ONLINE, SEEN])
def test_a_page_that_becomes_visible_reconnects(harness: Harness, event: str) -> None:
    later = harness.page.evaluate("Date.now() + 60_000")
    harness.page.clock.set_system_time(later / 1000)  # no timer has run
    assert count(harness) == 1
    harness.page.evaluate(event)
    assert count(harness) == 2


@pytest.mark.parametrize("event", [ONLINE, SEEN])
def test_a_network_that_is_back_is_used_at_once(harness: Harness, event: str) -> None:
    harness.server(**AWAY)
    harness.drop()
    run(harness, 30_000)
    harness.server(**BACK)
    harness.page.evaluate(event)
    expect(banner(harness)).to_have_count(0)


def test_a_page_from_the_browser_s_cache(harness: Harness) -> None:
    """Its connection may have ended without an event while it was there."""
    harness.page.evaluate(RETURNED.replace("true", "false"))
    assert count(harness) == 1
    harness.page.evaluate(RETURNED)
    assert count(harness) == 2
    harness.log(asked("u", "Hi"))
    expect(harness.message("u")).to_be_visible()
    run(harness, 5_000)
    expect(banner(harness)).to_have_count(0)
    assert count(harness) == 2


def test_a_new_version_of_the_scripts_reloads_the_page(harness: Harness) -> None:
    harness.box.fill("half a sen")
    harness.log(chat=None)
    harness.server(version="v2")
    harness.drop()
    with harness.page.expect_navigation():
        run(harness, 1_000)
    marked(harness.wait())
    harness.log(chat=None)
    expect(harness.box).to_have_value("half a sen")
    run(harness, 5_000)
    assert not reloaded(harness)


def test_too_many_tabs_shows_the_reason(harness: Harness) -> None:
    """A moment later, the reason was replaced by that of a lost connection."""
    harness.server(**FULL)
    harness.drop()
    run(harness, 60_000)
    expect(banner(harness)).to_have_text(FULL["way"]["reason"])
    assert count(harness) == 2
    harness.server(**BACK)
    harness.page.evaluate(SEEN)  # other tabs were closed, and this one is shown again
    expect(banner(harness)).to_have_count(0)


def test_a_first_connection_refused_for_too_many_tabs(opened: Open) -> None:
    harness = opened(server=FULL)
    expect(banner(harness)).to_have_text(FULL["way"]["reason"])


def test_blocked_websockets_show_a_banner(harness: Harness) -> None:
    harness.server(**BLOCKED)
    harness.drop()
    run(harness, 1_500)
    expect(banner(harness)).to_have_text(LOST)
    run(harness, 30_000)
    expect(banner(harness)).to_contain_text("a proxy in between must let WebSockets through")
    assert not reloaded(harness)
    harness.server(**BACK)
    run(harness, RETRIES)
    expect(banner(harness)).to_have_count(0)


@pytest.mark.parametrize("status", [0, 502, 503])
def test_an_unreachable_server_is_not_taken_for_blocked_websockets(
    harness: Harness, status: int
) -> None:
    harness.server(**AWAY | {"head": status})
    harness.drop()
    run(harness, 40_000)
    expect(banner(harness)).to_have_text(LOST)
    assert not reloaded(harness)


@pytest.mark.parametrize(("code", "status"), [(1006, 401), (4410, 410), (1006, 421)])
def test_a_server_that_refuses_the_page_causes_a_reload(
    harness: Harness, code: int, status: int
) -> None:
    harness.server(way={"code": 1006, "reason": ""}, head=status)
    harness.drop(code)
    with harness.page.expect_navigation():
        run(harness, 1_000)


def test_unknown_events_are_ignored(harness: Harness) -> None:
    harness.event(later={"x": 1}, say="Ahoy")
    expect(harness.page.locator(".linly-toast")).to_have_text("Ahoy")


@pytest.mark.parametrize(("locale", "language"), [("en-GB", "en"), ("zh-TW", "zh"), ("fr", "en")])
def test_the_stream_requests_the_browser_s_language(
    opened: Open, locale: str, language: str
) -> None:
    assert opened(locale=locale).connections() == [f"page/events?language={language}"]


def test_the_stream_requests_the_chosen_language(opened: Open) -> None:
    harness = opened(locale="en-GB", fake_clock=True)
    harness.control("language", language="zh")
    harness.drop()
    run(harness, 1_000)
    assert harness.connections()[-1] == "page/events?language=zh"
    assert harness.reload().connections() == ["page/events?language=zh"]
