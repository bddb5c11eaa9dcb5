"""Appearance of the page: each width, light and dark, each language, and only one host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from model.config.settings import CHECKOUT
from model.serving.adapter_folders import Adapter
from model.translations import texts
from tests.fake_engine import ADAPTERS, FakeEngine, echo
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage
from tests.web.ui.test_accessibility import (
    PHONE,
    WIDE,
    compare,
    engine_with_reply,
    send,
    wait_until_loaded,
)
from tests.web.ui.test_train import LINES, ScriptedTraining, upload
from web.access import AccessPolicy
from web.ui.presets import SLIDERS

pytestmark = pytest.mark.slow

WEB = CHECKOUT / "web"
I18N = {tag: texts(tag) for tag in ("en", "zh")}
LONG = (
    "word" * 80
    + "\n\n```python\n"
    + "x = 1  # " + "long " * 60
    + "\n```\n\n| " + " | ".join(["a wide heading"] * 12) + " |\n" + "|---" * 12 + "|\n\n$$"
    + "+".join(f"x_{{{i}}}" for i in range(60))
    + "$$\n"
)  # fmt: skip
NAMES = (
    "Linly Chat", "English", "fake-base", "8bit", "cpu", "pirate", "linly", "Talks like a",
    "User and Bot", "Top p", "Top k", "Min p", "top p", "top k", "min p", "JSON", "JSON Lines",
    "Markdown", "rank", "Shift", "instruction/input/output", "messages", "conversations",
    ".jsonl", ".json", "mine", "mine.jsonl", "model",
)  # fmt: skip


@contextmanager
def training(
    browser: Browser, folder: Path, **context: object
) -> Iterator[tuple[ChatPage, ScriptedTraining]]:
    """A visitor who may train."""
    scripted = ScriptedTraining(folder, LINES)
    with (
        serving(scripted.manager, AccessPolicy(training="local"), scripted.service) as url,
        browser.new_context(**context) as visitor,  # type: ignore[arg-type]
    ):
        yield wait_until_loaded(ChatPage(visitor.new_page()).open(url)), scripted
        scripted.service.trainings.close()


@pytest.mark.browser
def test_the_page_loads_nothing_from_another_host(browser: Browser, tmp_path: Path) -> None:
    hosts = set()
    scripted = ScriptedTraining(tmp_path, LINES)
    with (
        serving(scripted.manager, AccessPolicy(training="local"), scripted.service) as url,
        browser.new_context() as visitor,
    ):
        page = visitor.new_page()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        chat = wait_until_loaded(ChatPage(page).open(url))
        send(chat)
        chat.settings()
        page.get_by_role("tab", name="Train").click()
        upload(page, scripted.data())
        expect(page.locator("#preview pre")).to_have_count(2)
        loaded = page.evaluate("performance.getEntriesByType('resource').map((e) => e.name)")
        hosts |= {urlsplit(one).netloc for one in loaded}
        assert hosts - {""} == {urlsplit(url).netloc}


SIDEWAYS = """() => {
  const wide = [...document.querySelectorAll('html, body, main, #top, #tabs, #log, .scroller,'
    + ' #entry, #tools, #rivals, .linly-sidebar, .sidebar-content, .tabitem')];
  return wide.filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1
    && getComputedStyle(e).overflowX !== 'visible' || e.getBoundingClientRect().width > innerWidth)
    .map((e) => `${e.id || e.className || e.tagName}: ${e.scrollWidth} > ${e.clientWidth}`);
}"""


def fits(page: Page) -> None:
    page.wait_for_timeout(400)  # the bars slide in
    assert page.evaluate(SIDEWAYS) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]  # type: ignore[index]


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 390, 768, 1200])
def test_the_page_never_scrolls_sideways(open_page: OpenPage, width: int) -> None:
    long = Adapter("a-long-name" * 5, Path("a"), "Described at length " * 8, digest="d9" * 32)
    chat = open_page(engine_with_reply(LONG), adapters=[*ADAPTERS, long],
                 viewport={"width": width, "height": 800})  # fmt: skip
    wait_until_loaded(chat)
    fits(chat.page)
    send(chat, "y" * 300)
    expect(chat.log.locator("math")).to_have_count(1)
    fits(chat.page)
    for bar in ("settings", "chats"):
        if not chat.page.locator(f"#{bar}.open").count():
            chat.page.locator(f"#{bar} > .toggle-button").click()
        expect(chat.page.locator(f"#{bar}.open")).to_have_count(1)
        fits(chat.page)
        if width <= 768:
            chat.page.keyboard.press("Escape")
            expect(chat.page.locator(f"#{bar}.open")).to_have_count(0)
    chat.page.locator("#adapter input").click()
    fits(chat.page)
    chat.page.get_by_role("option").filter(has_text="a-long-name").click()
    expect(chat.page.get_by_role("option")).to_have_count(0)
    compare(chat)
    fits(chat.page)


@pytest.mark.browser
def test_nothing_in_the_top_line_overlaps(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), **WIDE))
    send(chat)
    chat.settings()
    chat.page.wait_for_timeout(400)
    boxes = chat.page.locator("#top > *:visible, .sidebar > .toggle-button").evaluate_all(
        "all => all.map((e) => [e.id || e.title, e.getBoundingClientRect().toJSON()])"
    )
    assert len(boxes) >= 6
    for (one, a), (other, b) in combinations(boxes, 2):
        beside = a["right"] <= b["left"] + 1 or b["right"] <= a["left"] + 1
        above = a["bottom"] <= b["top"] + 1 or b["bottom"] <= a["top"] + 1
        assert beside or above, (one, other)


@pytest.mark.browser
@pytest.mark.parametrize(("context", "least"), [(WIDE, 24), (PHONE, 44)], ids=["mouse", "finger"])
def test_buttons_are_large_enough(
    open_page: OpenPage, context: dict[str, object], least: int
) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), **context))
    chat.page.locator("#compare").click()
    expect(chat.page.locator("#rivals")).to_be_visible()
    small = """(least) => [...document.querySelectorAll(
        'button, [role=combobox], label:has(input)')]
      .filter((e) => e.checkVisibility({visibilityProperty: true}) && !e.closest('[aria-hidden]'))
      .map((e) => [e.closest('.wrap-inner') || e, e])
      .map(([box, e]) => [e.ariaLabel || e.textContent, box.getBoundingClientRect()])
      .filter(([, box]) => box.height < least || box.width < 24)
      .map(([name, box]) => `${name}: ${box.width} × ${box.height}`)"""
    assert chat.page.evaluate(small, least) == []
    chat.page.locator("#settings > .toggle-button").click()
    expect(chat.page.locator("#settings.open")).to_have_count(1)
    assert chat.page.evaluate(small, 24) == []


@pytest.mark.browser
def test_a_single_tab_is_hidden(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo)))
    expect(chat.page.get_by_role("tablist")).to_have_count(0)


@pytest.mark.browser
def test_an_empty_chat_offers_suggestions(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo)))
    proposal = chat.page.get_by_role("group", name="Suggestions").get_by_role("button")
    expect(proposal).to_have_count(3)
    proposal.first.click()
    expect(chat.message).to_have_value(I18N["en"]["suggestion_1"])
    expect(chat.message).to_be_focused()
    chat.send.click()
    expect(chat.log).to_contain_text(f"base heard: {I18N['en']['suggestion_1']}")
    expect(proposal).to_have_count(0)


def prefer(page: Page, scheme: str) -> None:
    """Sets the system's colour scheme, and waits until the page has applied it."""
    page.evaluate(
        "() => { window.heard = false; matchMedia('(prefers-color-scheme: dark)')"
        ".addEventListener('change', () => { window.heard = true; }, {once: true}); }"
    )
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.wait_for_function("window.heard")


EACH_FRAME = """window.seen = new Set();
(function look() {
  if (document.body) seen.add(document.body.classList.contains('dark'));
  requestAnimationFrame(look);
})()"""


@pytest.mark.browser
@pytest.mark.parametrize("system", ["light", "dark"])
def test_light_and_dark(open_page: OpenPage, system: str) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), color_scheme=system))
    body, toggle = chat.page.locator("body"), chat.page.get_by_role("button", name="Dark / light")
    dark = re.compile(r"\bdark\b")
    is_dark, is_light = expect(body).to_have_class, expect(body).not_to_have_class
    as_system, other = (is_dark, is_light) if system == "dark" else (is_light, is_dark)
    as_system(dark)
    toggle.click()
    other(dark)
    chat.page.add_init_script(EACH_FRAME)
    chat.page.reload()
    wait_until_loaded(chat)
    other(dark)
    # It was not drawn in the other theme first.
    assert chat.page.evaluate("[...seen]") == [system == "light"]
    # The visitor's choice stays when the system's preference changes.
    for scheme in ("light" if system == "dark" else "dark", system):
        prefer(chat.page, scheme)
    other(dark)
    toggle.click()
    as_system(dark)


@pytest.mark.browser
def test_the_theme_follows_the_system_until_the_visitor_chooses(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), color_scheme="light"))
    prefer(chat.page, "dark")
    expect(chat.page.locator("body")).to_have_class(re.compile(r"\bdark\b"))


@pytest.mark.browser
def test_reduced_motion_disables_animations(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), reduced_motion="reduce"))
    chat.page.locator("#settings > .toggle-button").click()
    moving = chat.page.evaluate("document.getAnimations().map((a) => a.effect.target.className)")
    assert moving == []


# Every text that is shown or read out: texts, labels, tooltips, placeholders, values.
TEXTS = """() => {
  const texts = [];
  const NAMES = ['aria-label', 'title', 'placeholder', 'alt'];
  const whatever = NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT;
  const walker = document.createTreeWalker(document.body, whatever);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const e = node.nodeType === Node.TEXT_NODE ? node.parentElement : node;
    if (e.closest('script, style, #preview, [aria-hidden=true]') || !e.checkVisibility()) continue;
    if (e !== node) texts.push(node.data);
    else {
      texts.push(...NAMES.map((name) => e.getAttribute(name)));
      if (e.matches('textarea, input:not([type=radio], [type=checkbox], [type=file])')) {
        texts.push(e.value);
      }
    }
  }
  return [...new Set(texts.filter(Boolean).map((text) => text.trim()))];
}"""


def english_texts(page: Page) -> list[str]:
    """Returns the texts that contain English words, except for names."""
    page.wait_for_timeout(300)
    longest_first = sorted(map(re.escape, NAMES), key=len, reverse=True)
    names = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(longest_first)})(?![A-Za-z])")
    texts: list[str] = page.evaluate(TEXTS)
    assert len(texts) > 20
    return [text for text in texts if re.search(r"[A-Za-z]{2}", names.sub("", text))]


@pytest.mark.browser
def test_every_text_changes_with_the_language(browser: Browser, tmp_path: Path) -> None:
    with training(browser, tmp_path, **WIDE) as (chat, scripted):
        page = chat.page
        page.get_by_text("中文").click()
        expect(page.get_by_role("button", name="发送", exact=True)).to_be_visible()
        page.locator("#settings > .toggle-button").click()
        for fold in page.locator("#settings .label-wrap").all():
            fold.click()
        assert english_texts(page) == []
        send(chat, "你好")
        chat.log.locator("summary").click()
        page.locator("#sidebar summary").click()
        page.locator("#sidebar li").first.hover()
        remaining = [text for text in english_texts(page) if "heard" not in text]
        assert remaining == []
        compare(chat)
        assert [text for text in english_texts(page) if not re.search("heard|Both", text)] == []
        page.get_by_role("tab", name="训练").click()
        expect(page.get_by_role("button", name="开始训练")).to_be_visible()
        assert [text for text in english_texts(page) if not re.search("heard|Both", text)] == []
        upload(page, scripted.data())
        expect(page.locator("#preview pre")).to_have_count(2)
        assert [text for text in english_texts(page) if not re.search("heard|Both", text)] == []


@pytest.mark.browser
def test_a_chinese_browser_gets_the_chinese_page(open_page: OpenPage) -> None:
    chat = wait_until_loaded(open_page(FakeEngine(echo), locale="zh-CN"))
    expect(chat.page.get_by_role("button", name=I18N["zh"]["send"], exact=True)).to_be_visible()
    expect(chat.page.get_by_role("region", name=I18N["zh"]["settings"])).to_have_count(1)
    assert english_texts(chat.page) == []


def test_both_languages_have_the_same_texts() -> None:
    assert I18N["en"].keys() == I18N["zh"].keys()
    for key, text in I18N["en"].items():
        assert set(re.findall(r"\{\w+", text)) == set(re.findall(r"\{\w+", I18N["zh"][key])), key
        assert re.search(r"[一-鿿]", I18N["zh"][key]) or text == I18N["zh"][key] or key == "title"


def test_every_text_of_the_page_is_used() -> None:
    code = "".join(path.read_text("utf-8") for path in WEB.rglob("*.py"))
    # Some keys are built: `queued_{reason}`, `suggestion_{n + 1}`.
    built = re.findall(r'f"([a-z]+_\{[^"]*\})"', code)
    patterns = [re.compile(re.sub(r"\{.*?\}", r"\\w+", key)) for key in built]
    patterns += [re.compile(f"{name}(_info)?") for name in SLIDERS]
    unused = [
        key
        for key in I18N["en"]
        if not re.search(f"[\"']{key}[\"']", code) and not any(p.fullmatch(key) for p in patterns)
    ]
    assert unused == []
