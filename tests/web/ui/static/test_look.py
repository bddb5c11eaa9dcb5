"""Style of the scripts' parts: on a phone, in the dark, sizes and contrast."""

from __future__ import annotations

import re
import time

import pytest

from tests.web.ui.static.conftest import Open
from tests.web.ui.static.harness import Harness, asked, replied

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
WIDE = (
    "```python\n# a note\ndef f(x: int) -> str: return 'x' * 1_000 + 'long'"
    + " * 1" * 40
    + "\n```\n\n"
    "| " + " | ".join(["a wide heading"] * 12) + " |\n" + "|---" * 12 + "|\n\n"
    "$$"
    + "+".join(f"x_{{{i}}}" for i in range(60))
    + "$$\n\n"
    + "w" * 400
    + " [a link](https://a.example)"
)
FACTS = {"facts": "3 tokens · " + "n" * 90, "provenance": [["Prompt", "p" * 300]], "exact": True}


def fill(harness: Harness) -> None:
    harness.log(
        asked("u", "y" * 300, branch={"at": 1, "of": 2, "before": None, "after": "v"}),
        replied("a", WIDE, state="failed", error="e" * 200, continues=True, **FACTS),
        comparison={"id": "c", "vote": "p", "replies": [
            replied("p", WIDE, who="w" * 60, **FACTS), replied("q", "Aye", who="Base"),
        ]},
    )  # fmt: skip
    chats = [
        {"id": str(i), "title": "t" * 90, "updated": time.time(), "running": True} for i in range(2)
    ]
    harness.sidebar(*chats, current="1", persistent=False, deleted={"id": "d", "title": "d" * 90})
    harness.page.locator(".hljs-keyword").first.wait_for()
    harness.page.locator("math").first.wait_for()


@pytest.mark.parametrize("shown", ["", "shown"])
def test_a_phone_never_scrolls_sideways(opened: Open, shown: str) -> None:
    harness = opened(**PHONE)
    harness.page.evaluate(
        "(shown) => { document.getElementById('side').className = shown; }", shown
    )
    fill(harness)
    harness.page.locator("#log summary").first.evaluate("e => { e.parentElement.open = true; }")
    for selector in ("html", ".scroller", ".linly-sidebar"):
        width, room = harness.page.locator(selector).evaluate("e => [e.scrollWidth, e.clientWidth]")
        assert width <= room


@pytest.mark.parametrize(("context", "least"), [({}, 24), (PHONE, 44)])
def test_buttons_are_large_enough_for_touch(
    opened: Open, context: dict[str, object], least: int
) -> None:
    harness = opened(**context)
    harness.page.evaluate("document.getElementById('side').className = 'shown'")
    fill(harness)
    harness.page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    small = harness.page.evaluate(
        """(least) => [...document.querySelectorAll(':is(#log, #side) :is(button, summary)')]
          .filter((e) => e.getClientRects().length)
          .map((e) => [e.ariaLabel || e.textContent, e.getBoundingClientRect()])
          .filter(([, box]) => box.height < least || box.width < least)
          .map(([name, box]) => `${name}: ${box.width} × ${box.height}`)""",
        least,
    )
    assert small == []


# Each text's colour, and the colours behind it, of which the last is opaque.
CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) => below.map((b, i) => (top[i] * top[3] + b * (255 - top[3])) / 255);
  const behind = (e) => {
    const own = rgba(getComputedStyle(e).backgroundColor);
    return own[3] === 255 ? own.slice(0, 3) : over(own, behind(e.parentElement));
  };
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (color) => {
    const [r, g, b] = color.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (e) => {
    const below = behind(e);
    const lights = [light(over(rgba(getComputedStyle(e).color), below)), light(below)];
    return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (texts.nextNode()) {
    const { data, parentElement: e } = texts.currentNode;
    const seen = data.trim() && e.closest('#log, #side') && e.getClientRects().length;
    const counts = seen && !e.closest(':disabled, .linly-hidden');
    if (counts) found.push([contrast(e), data.slice(0, 30)]);
  }
  return found;
}"""


@pytest.mark.parametrize("mode", ["", "dark"])
def test_every_text_has_enough_contrast(harness: Harness, mode: str) -> None:
    harness.page.evaluate("(mode) => { document.body.className = mode; }", mode)
    fill(harness)
    harness.page.evaluate("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    contrasts = harness.page.evaluate(CONTRASTS)
    assert len(contrasts) > 50
    assert [pale for pale in contrasts if pale[0] < 4.5] == []


def test_reduced_motion_disables_animations(opened: Open) -> None:
    harness = opened(reduced_motion="reduce")
    harness.log(replied("a", "Arr", state="streaming"))
    moving = harness.page.locator(".body p").evaluate(
        "e => getComputedStyle(e, '::after').animationName"
    )
    assert re.fullmatch("none", moving)


def test_tools_appear_under_the_pointer(harness: Harness) -> None:
    harness.log(asked("u", "Hi"), replied("a", "Arr"))
    copy = harness.message("u").get_by_role("button", name="Copy")
    seen = "e => getComputedStyle(e).opacity"
    harness.page.mouse.move(0, 0)
    harness.page.wait_for_timeout(200)
    assert copy.evaluate(seen) == "0"
    copy.focus()
    harness.page.wait_for_timeout(200)
    assert copy.evaluate(seen) == "1"
