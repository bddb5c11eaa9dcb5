"""Scrolling: the log follows its end, and draws long chats from their end."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.web.ui.static.harness import Harness, asked, replied

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PARAGRAPHS = "\n\n".join(["Some words about the sea and its ships."] * 12)


def chat(count: int, name: str = "m") -> list[dict[str, Any]]:
    return [
        (asked if i % 2 == 0 else replied)(f"{name}{i}", f"{i}: {PARAGRAPHS}") for i in range(count)
    ]


def distance(harness: Harness) -> float:
    """Returns how far the log is scrolled from its end."""
    far: float = harness.page.locator(".scroller").evaluate(
        "e => e.scrollHeight - e.scrollTop - e.clientHeight"
    )
    return far


def scroll_up(harness: Harness, by: int = 600) -> None:
    harness.page.locator(".scroller").evaluate("(e, by) => { e.scrollTop -= by; }", by)
    expect(harness.page.get_by_role("button", name="To the newest message")).to_be_visible()


def top_of(harness: Harness, key: str) -> float:
    top: float = harness.message(key).evaluate("e => e.getBoundingClientRect().top")
    return top


def test_a_long_chat_is_drawn_from_its_end(harness: Harness) -> None:
    drawn = harness.page.evaluate(
        """async (messages) => {
          harness.log({chat: 'c1', language: 'en', messages, comparison: null, empty: ''});
          await new Promise((painted) => requestAnimationFrame(painted));
          return document.querySelectorAll('article').length;
        }""",
        chat(200),
    )
    assert drawn == 20
    assert distance(harness) < 2
    harness.idle()
    expect(harness.page.locator("article")).to_have_count(200)
    order = harness.page.evaluate(
        "[...document.querySelectorAll('article')].map(a => a.dataset.id)"
    )
    assert order == [f"m{i}" for i in range(200)]
    assert distance(harness) < 2


def test_the_reading_place_stays_while_older_messages_are_drawn(harness: Harness) -> None:
    messages = chat(60)
    harness.log(*messages[40:])
    scroll_up(harness)
    before = top_of(harness, "m58")
    harness.log(*messages)
    harness.idle()
    assert abs(top_of(harness, "m58") - before) < 2


def test_the_log_follows_its_end(harness: Harness) -> None:
    harness.log(*chat(6), replied("s", "", state="streaming"))
    for count in range(1, 6):
        harness.live(s="\n\n".join(["word"] * count * 10))
        assert distance(harness) < 2


def test_the_log_stays_where_the_reader_scrolled_up_to(harness: Harness) -> None:
    harness.log(*chat(6), replied("s", "", state="streaming"))
    scroll_up(harness)
    before = top_of(harness, "m3")
    harness.live(s=PARAGRAPHS)
    harness.log(*chat(6), replied("s", PARAGRAPHS), replied("t", PARAGRAPHS))
    assert abs(top_of(harness, "m3") - before) < 2
    end = harness.page.get_by_role("button", name="To the newest message")
    end.click()
    expect(end).to_be_hidden()
    assert distance(harness) < 2


def test_near_the_end_counts_as_the_end(harness: Harness) -> None:
    harness.log(*chat(6), replied("s", "", state="streaming"))
    harness.page.locator(".scroller").evaluate("e => { e.scrollTop -= 30; }")
    harness.frames()
    harness.live(s=PARAGRAPHS)
    assert distance(harness) < 2


def test_another_chat_opens_at_its_end(harness: Harness) -> None:
    harness.log(*chat(6))
    scroll_up(harness)
    harness.log(*chat(6, "n"), chat="c2")
    assert distance(harness) < 2


def test_sending_a_message_scrolls_to_it(harness: Harness) -> None:
    harness.log(*chat(6))
    scroll_up(harness)
    harness.log(*chat(6), asked("new", "And now?"), replied("s", "", state="streaming"))
    assert distance(harness) < 2


LAID_OUT = """() => [...document.querySelectorAll('article')]
  .filter((article) => article.checkVisibility({contentVisibilityAuto: true}))
  .map((article) => article.dataset.id)"""
# Scrolls up step by step; returns how far the text moved beyond the scrolled distance.
STEPS = """async (steps) => {
  const scroller = document.querySelector('.scroller');
  const next = () => new Promise((done) => requestAnimationFrame(done));
  const {top} = scroller.getBoundingClientRect();
  const errors = [];
  for (let step = 0; step < steps && scroller.scrollTop > 800; step += 1) {
    const read = [...document.querySelectorAll('article')]
      .find((article) => article.getBoundingClientRect().bottom > top);
    const before = read.getBoundingClientRect().top;
    scroller.scrollTop -= 500;
    await next();
    await next();
    errors.push(Math.abs(read.getBoundingClientRect().top - before - 500));
  }
  return errors;
}"""


def test_groups_far_from_the_viewport_are_skipped(harness: Harness) -> None:
    """One more word cost as much as the complete chat."""
    messages = chat(200)
    harness.log(*messages, replied("s", "", state="streaming"))
    harness.idle()
    laid_out = harness.page.evaluate(LAID_OUT)
    assert "s" in laid_out
    assert len(laid_out) < 60
    harness.message("m0").scroll_into_view_if_needed()
    harness.frames()
    laid_out = harness.page.evaluate(LAID_OUT)
    assert "m0" in laid_out
    assert len(laid_out) < 80
    harness.live(s=PARAGRAPHS)
    assert abs(top_of(harness, "m0")) < 100
    harness.page.get_by_role("button", name="To the newest message").click()
    harness.frames()
    assert distance(harness) < 2
    expect(harness.message("s")).to_be_in_viewport()


@pytest.mark.parametrize("width", [1280, 500])
def test_scrolling_through_a_long_chat_never_jumps(harness: Harness, width: int) -> None:
    """With another width of the page, skipped groups have other heights than before."""
    harness.log(*chat(120))
    harness.idle()
    harness.page.set_viewport_size({"width": width, "height": 720})
    harness.frames()
    assert distance(harness) < 2
    errors = harness.page.evaluate(STEPS, 60)
    assert len(errors) == 60
    assert max(errors) < 2


def test_the_reading_place_stays_when_content_above_grows(harness: Harness) -> None:
    """As formulas do when their library is loaded late."""
    harness.log(*chat(8))
    scroll_up(harness)
    before = top_of(harness, "m6")
    harness.message("m2").evaluate("e => { e.style.minHeight = '3000px'; }")
    harness.frames()
    assert abs(top_of(harness, "m6") - before) < 2


def test_the_last_message_always_shows_its_tools(harness: Harness) -> None:
    harness.log(*chat(45))
    harness.idle()
    harness.page.mouse.move(0, 0)
    harness.page.wait_for_timeout(200)
    shown = harness.page.evaluate(
        """[...document.querySelectorAll('article')]
          .filter((article) => getComputedStyle(article.querySelector('.tools > .linly-tool'))
            .opacity === '1').map((article) => article.dataset.id)"""
    )
    assert shown == ["m44"]
