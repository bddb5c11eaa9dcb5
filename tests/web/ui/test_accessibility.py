"""Accessibility: axe finds no violation, and the keyboard reaches every control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage
from tests.web.ui.test_train import LINES, ScriptedTraining, to_training, upload
from web.access import AccessPolicy

pytestmark = [pytest.mark.browser, pytest.mark.slow]

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Gradio's login page is a form and nothing around it: it takes our theme, but no markup.
LOGIN = ["document-title", "landmark-one-main", "page-has-heading-one", "region"]
REPLY = """## A heading

Some *words*, `code` and a [link](https://example.com/).

```python
def f(x: int) -> str:  # a note
    return "x" * 10
```

| one | two |
|-----|-----|
| 1   | 2   |

$$\\int_0^1 x^2 dx$$

> quoted

1. first
"""
WIDE = {"viewport": {"width": 1200, "height": 800}}
DARK = {**WIDE, "color_scheme": "dark"}
PHONE = {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True}
VISITORS = {
    "light": WIDE,
    "dark": DARK,
    "chinese-dark-phone": {**PHONE, "locale": "zh-CN", "color_scheme": "dark"},
}
each_visitor = pytest.mark.parametrize("context", VISITORS.values(), ids=VISITORS)


def violations(page: Page, *without: str) -> list[str]:
    """Returns axe's violations with their elements."""
    options = {
        "runOnly": {"type": "tag", "values": TAGS},
        "rules": {rule: {"enabled": False} for rule in without},
        "resultTypes": ["violations"],
    }
    # While an element fades in, its colours differ.
    page.evaluate("Promise.all(document.getAnimations().map((a) => a.finished.catch(() => 0)))")
    found: list[dict[str, Any]] = Axe().run(page, options=options).response["violations"]
    return [f"{one['id']}: {node['target']}" for one in found for node in one["nodes"]]


def engine_with_reply(*pieces: str) -> FakeEngine:
    return FakeEngine(lambda prompt, request: list(pieces))


def wait_until_loaded(chat: ChatPage) -> ChatPage:
    """Waits for labels, roles and the base, which are set after the page is loaded."""
    expect(chat.page.locator("#status[role=status]")).to_contain_text("fake-base")
    expect(chat.page.locator("#chats[aria-label]")).to_have_count(1)
    return chat


def send(chat: ChatPage, text: str = "Tell me") -> None:
    chat.page.locator("#message textarea").fill(text)
    chat.page.locator("#send").click()
    expect(chat.log.locator(".facts summary").first).to_be_visible()
    expect(chat.page.locator("#send")).to_be_visible()


def compare(chat: ChatPage) -> None:
    """Compares base and pirate, by selectors that are the same in any language."""
    chat.page.locator("#compare").click()
    for place, choice in enumerate(("fake-base", "pirate")):
        chat.page.locator("#rivals [role=combobox]").nth(2 * place).click()
        chat.page.get_by_role("option").filter(has_text=choice).click()
        expect(chat.page.get_by_role("option")).to_have_count(0)
    chat.page.locator("#message textarea").fill("Both of you")
    chat.page.locator("#rivals > button").click()
    expect(chat.log.locator(".columns article")).to_have_count(2)
    expect(chat.log.locator("[data-act=best]:enabled")).to_have_count(2)


@each_visitor
def test_a_chat_is_accessible(open_page: OpenPage, context: dict[str, object]) -> None:
    chat = wait_until_loaded(open_page(engine_with_reply(REPLY), **context))
    assert violations(chat.page) == []
    send(chat)
    chat.log.locator("summary").click()
    expect(chat.log.locator("math")).to_have_count(1)
    expect(chat.log.locator(".hljs-keyword").first).to_be_visible()
    assert violations(chat.page) == []


@each_visitor
def test_settings_and_comparisons_are_accessible(
    open_page: OpenPage, context: dict[str, object]
) -> None:
    chat = wait_until_loaded(open_page(engine_with_reply(REPLY), **context))
    chat.page.locator("#settings > .toggle-button").click()
    expect(chat.page.locator("#settings.open")).to_have_count(1)
    for fold in chat.page.locator("#settings .label-wrap").all():
        fold.click()
    assert violations(chat.page) == []
    chat.page.locator("#settings > .toggle-button").click()
    compare(chat)
    assert violations(chat.page) == []


@pytest.mark.parametrize("context", [WIDE, DARK, PHONE], ids=["light", "dark", "phone"])
def test_the_train_tab_is_accessible(
    browser: Browser, tmp_path: Path, context: dict[str, Any]
) -> None:
    scripted = ScriptedTraining(tmp_path, LINES)
    with (
        serving(scripted.manager, AccessPolicy(training="local"), scripted.service) as url,
        browser.new_context(**context) as visitor,
    ):
        page = wait_until_loaded(ChatPage(visitor.new_page()).open(url)).page
        to_training(page)
        assert violations(page) == []
        upload(page, scripted.data())
        expect(page.locator("#preview pre")).to_have_count(2)
        page.get_by_role("button", name="Start training").click()
        expect(page.locator("#job[role=status] svg")).to_be_visible()
        assert violations(page) == []
        scripted.service.trainings.close()


@pytest.mark.parametrize("context", [WIDE, DARK], ids=["light", "dark"])
def test_the_login_page_is_accessible(browser: Browser, context: dict[str, Any]) -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with (
        serving(manager, AccessPolicy({"anna": "a1"})) as url,
        browser.new_context(**context) as visitor,
    ):
        page = visitor.new_page()
        page.goto(url)
        expect(page.get_by_role("button", name="Login")).to_be_visible()
        assert violations(page, *LOGIN) == []


# The focused element: its label, whether it is on the screen, and whether the focus is visible.
FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const box = e.getBoundingClientRect();
  const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
  const at = document.elementFromPoint(x, y);
  const rings = (one) => one && (getComputedStyle(one).outlineStyle !== 'none'
    && parseFloat(getComputedStyle(one).outlineWidth) >= 1);
  const around = [e, e.closest('label'), e.closest('.wrap'), e.closest('#entry')];
  const entry = e.closest('#message') && getComputedStyle(e.closest('#entry')).boxShadow;
  const label = e.closest('label')?.textContent;
  return {
    name: (e.ariaLabel || e.textContent || label || e.tagName).trim(),
    shown: Boolean(at && ((e.closest('label') || e).contains(at) || at.contains(e))),
    ringed: around.some(rings) || Boolean(entry && entry.includes('0px 0px 0px 1px')),
  };
}"""


def walk(page: Page, key: str = "Tab", most: int = 90) -> list[dict[str, Any]]:
    """Presses `key` until the focus leaves the page; returns the focused elements."""
    page.evaluate("document.activeElement.blur()")
    stops: list[dict[str, Any]] = []
    for _ in range(most):
        page.keyboard.press(key)
        page.wait_for_timeout(30)
        stop = page.evaluate(FOCUSED)
        if stop is None and stops:
            return stops
        if stop is not None:
            stops.append(stop)
    raise AssertionError(f"the focus is caught: {[stop['name'] for stop in stops[-6:]]}")


def start_over(page: Page) -> None:
    """Has the next Tab go to the first element of the page."""
    page.evaluate(
        "() => { const top = document.createElement('a'); top.tabIndex = -1;"
        " document.body.prepend(top); top.focus(); top.remove(); }"
    )


@pytest.mark.parametrize("context", [WIDE, PHONE], ids=["wide", "phone"])
def test_tab_reaches_every_control_and_shows_the_focus(
    open_page: OpenPage, context: dict[str, object]
) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), **context))
    if context is PHONE:
        expect(chat.page.locator("#sidebar")).to_be_hidden()  # the bar has slid out
    send(chat)
    start_over(chat.page)
    stops = walk(chat.page)
    names = {stop["name"] for stop in stops}
    assert {"Chats", "Settings", "Dark / light", "English", "Message", "Send", "Adapter", "Copy",
            "Edit", "Answer again", "Regenerate", "New chat", "Compare"} <= names  # fmt: skip
    if context is WIDE:
        assert {"Search chats", "Tell me", "Rename", "Delete", "Export and import"} <= names
    assert [stop["name"] for stop in stops if not stop["shown"]] == []
    assert [stop["name"] for stop in stops if not stop["ringed"]] == []
    assert "Temperature" not in names  # the settings are closed


def test_tab_reaches_every_setting_and_the_rivals(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), **WIDE))
    chat.page.locator("#settings > .toggle-button").press("Enter")
    expect(chat.page.locator("#settings > .toggle-button")).to_have_attribute(
        "aria-expanded", "true"
    )
    chat.page.locator("#compare").press("Enter")
    expect(chat.page.locator("#compare")).to_have_attribute("aria-expanded", "true")
    start_over(chat.page)
    stops = walk(chat.page)
    names = [stop["name"] for stop in stops]
    wanted = {"Strength", "System prompt", "Temperature", "Top p", "Prompt template", "Rival 1",
              "Preset 4", "Ask all of them", "Temperature as a number",
              "Temperature: back to the default"}  # fmt: skip
    assert {name for name in wanted if not any(n.startswith(name) for n in names)} == set()
    assert [stop["name"] for stop in stops if not stop["ringed"]] == []


def test_a_bar_over_the_page_does_not_trap_the_focus(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), **PHONE))
    button, bar = chat.page.locator("#chats > .toggle-button"), chat.page.locator("#chats.open")
    expect(bar).to_have_count(0)
    button.press("Enter")
    expect(bar).to_have_count(1)
    expect(chat.page.locator("#tabs")).to_have_attribute("inert", "")
    chat.page.keyboard.press("Escape")
    expect(bar).to_have_count(0)
    expect(button).to_be_focused()
    expect(chat.page.locator("#tabs")).not_to_have_attribute("inert", "")
    button.click()
    expect(bar).to_have_count(1)
    chat.page.wait_for_timeout(400)  # until the bar has slid in
    chat.page.touchscreen.tap(380, 500)
    expect(bar).to_have_count(0)


def test_the_document_has_title_language_and_landmarks(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(engine_with_reply("## Aye"), **WIDE))
    html = chat.page.locator("html")
    expect(html).to_have_attribute("lang", "en")
    send(chat)
    levels = chat.page.locator(":is(h1, h2, h3, h4, h5, h6):visible").evaluate_all(
        "all => all.map((e) => e.tagName + ' ' + e.textContent)"
    )
    assert levels == ["H2 Today", "H1 Linly Chat", "H2 Aye"]
    expect(chat.page.get_by_role("main")).to_have_count(1)
    expect(chat.page.get_by_role("navigation", name="Chats")).to_have_count(1)
    expect(chat.page.get_by_role("region", name="Settings")).to_have_count(1)
    expect(chat.page.locator("#meter[role=status]")).to_contain_text("tokens")
    expect(chat.page.get_by_role("log")).to_have_attribute("aria-live", "polite")
    chat.page.get_by_text("中文").click()
    expect(html).to_have_attribute("lang", "zh")
    expect(chat.page.get_by_role("region", name="设置")).to_have_count(1)


def test_errors_are_announced_to_screen_readers(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), tuned=False))
    expect(chat.page.get_by_role("alert")).to_contain_text("no chat template")
