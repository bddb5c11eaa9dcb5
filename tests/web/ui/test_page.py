"""The page in a real browser, over a scripted engine."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, expect

from model.errors import ModelFolderError
from model.translations import verbatim
from model.types import EngineRequest
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import PATIENCE, ChatPage
from tests.web.conftest import OpenPage
from web.access import AccessPolicy
from web.listen_socket import bind
from web.ui import custom_components

pytestmark = pytest.mark.browser


def script(*pieces: str) -> Callable[[str, EngineRequest], list[str]]:
    return lambda prompt, request: list(pieces)


def test_a_question_gets_a_reply(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    expect(chat.page.locator("#status")).to_contain_text("fake-base")
    chat.ask("hello there")
    expect(chat.log).to_contain_text("base heard: hello there")
    expect(chat.log).to_contain_text("4 tokens in reply to")
    expect(chat.log).to_contain_text("tokens/s")
    expect(chat.message).to_have_value("")
    expect(chat.send).to_be_visible()


def test_the_model_gets_the_complete_chat(open_page: OpenPage) -> None:
    engine = FakeEngine(script("Aye *indeed*."))
    chat = open_page(engine)
    chat.ask("first <b>bold</b>")
    expect(chat.log).to_contain_text("Aye indeed")
    expect(chat.send).to_be_visible()
    chat.ask("second")
    expect(chat.log.get_by_text("second")).to_be_visible()
    expect(chat.send).to_be_visible()
    prompt = "".join(map(chr, engine.requests[-1].prompt_ids))
    assert prompt == (
        "<|im_start|>user\nfirst <b>bold</b><|im_end|>\n"
        "<|im_start|>assistant\nAye *indeed*.<|im_end|>\n"
        "<|im_start|>user\nsecond<|im_end|>\n<|im_start|>assistant\n"
    )


def test_enter_sends_and_shift_enter_does_not(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.message.fill("one")
    chat.message.press("Shift+Enter")
    chat.message.type("two")
    chat.message.press("Enter")
    expect(chat.log).to_contain_text("base heard: one")
    expect(chat.log).to_contain_text("two")


def test_an_empty_message_is_not_sent(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    chat.ask("   ")
    chat.ask("real")
    expect(chat.log).to_contain_text("base heard: real")
    assert len(engine.requests) == 1


def test_the_adapter_drop_down(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    expect(chat.page.get_by_label("Adapter")).to_have_value(re.compile("Base model"))
    chat.choose("Adapter", "pirate")
    chat.ask("hello")
    expect(chat.log).to_contain_text("pirate heard: hello")
    expect(chat.send).to_be_visible()
    chat.choose("Adapter", "linly")
    chat.ask("again")
    expect(chat.log).to_contain_text("linly heard")
    assert "".join(map(chr, engine.requests[-1].prompt_ids)).endswith("User: again\nBot: ")


def test_a_broken_adapter_shows_its_reason_and_loses_nothing(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.choose("Adapter", "✕ torn: broken, it has no adapter_model")
    chat.ask("precious words")
    expect(chat.log).to_contain_text("adapter_model.safetensors")
    expect(chat.log).to_contain_text("precious words")
    expect(chat.send).to_be_visible()
    chat.choose("Adapter", "● pirate")
    chat.regenerate.click()
    expect(chat.log).to_contain_text("pirate heard: precious words")
    expect(chat.log).not_to_contain_text("adapter_model.safetensors")


def test_stop_ends_within_one_token_and_keeps_the_text(open_page: OpenPage) -> None:
    engine = FakeEngine(script(*["word "] * 500), ticking=True)
    chat = open_page(engine)
    chat.ask("go on")
    engine.tick(3)
    expect(chat.log).to_contain_text("word word word")
    chat.stop.click()
    expect(chat.log).to_contain_text("Stopped")
    expect(chat.send).to_be_visible()
    (request,) = engine.requests
    assert request.id in engine.aborted
    assert engine.emitted[request.id] == 3
    assert "word word word" in chat.log.inner_text()


def test_regenerate_shows_the_new_reply(open_page: OpenPage) -> None:
    counter = iter(range(10))
    chat = open_page(FakeEngine(lambda prompt, request: [f"attempt {next(counter)}"]))
    chat.ask("hello")
    expect(chat.log).to_contain_text("attempt 0")
    expect(chat.send).to_be_visible()
    chat.regenerate.click()
    expect(chat.log).to_contain_text("attempt 1")
    expect(chat.log).not_to_contain_text("attempt 0")


@pytest.mark.parametrize("midway", [False, True])
def test_new_chat_empties_the_log(open_page: OpenPage, midway: bool) -> None:
    engine = FakeEngine(script(*["word "] * 50), ticking=midway)
    chat = open_page(engine)
    chat.ask("hello")
    engine.tick(2)
    expect(chat.log).to_contain_text("word word")
    chat.new_chat.click()
    expect(chat.log).not_to_contain_text("word")
    engine.ticking = False
    chat.ask("anew")
    expect(chat.log).to_contain_text("50 tokens")
    assert "hello" not in chat.log.inner_text()
    assert "hello" not in "".join(map(chr, engine.requests[-1].prompt_ids))


def test_html_in_messages_is_not_run(open_page: OpenPage) -> None:
    chat = open_page(
        FakeEngine(script("<script>window.pwned = 1</script> <img src=x onerror=", "1>"))
    )
    chat.ask("<script>window.pwned = 2</script> **stars** `code` $5")
    expect(chat.log).to_contain_text("<script>window.pwned = 2</script> **stars** `code` $5")
    expect(chat.log).to_contain_text("<script>window.pwned = 1</script> <img src=x onerror=1>")
    assert chat.page.evaluate("window.pwned") is None


def test_markdown_code_and_latex_in_replies(open_page: OpenPage) -> None:
    reply = "**bold**\n\n```python\nif a < b: print('<b>')\n```\n\n$$a < b^2$$ and \\(x\\)"
    chat = open_page(FakeEngine(script(*reply)))
    chat.ask("show me")
    expect(chat.log.locator("strong").get_by_text("bold")).to_be_visible()
    expect(chat.log.locator("pre code")).to_contain_text("if a < b: print('<b>')")
    expect(chat.log.locator("pre code span").first).to_be_visible()  # highlighted
    expect(chat.log.locator("math").first).to_be_visible()


# Selectors with `:has()`, cut off before it, that match an ancestor of the log's messages.
SEARCHES = """() => {
    const around = [];
    for (let one = document.querySelector('.messages'); one; one = one.parentElement) {
      around.push(one);
    }
    const rules = (list) => [...list].flatMap((rule) => [rule, ...rules(rule.cssRules ?? [])]);
    const selectors = [...document.styleSheets].flatMap((sheet) => rules(sheet.cssRules))
      .flatMap(({ selectorText }) => selectorText?.split(/,(?![^(]*\\))/) ?? [])
      .filter((selector) => selector.includes(':has('));
    const before = (selector) => selector.split(':has(')[0].replace(/:not\\($/, '').trim() || '*';
    const fits = (selector) => around.some((one) => one.matches(before(selector)));
    return { found: selectors.length, around: selectors.filter(fits) };
}"""


def test_no_style_rule_searches_the_log(open_page: OpenPage) -> None:
    """Not by `:has()` of an ancestor: the browser would search the complete chat at each word."""
    chat = open_page(FakeEngine(echo))
    expect(chat.page.locator(".with-bars.chats-open")).to_be_visible()
    rules = chat.page.evaluate(SEARCHES)
    assert rules["found"] > 5
    assert rules["around"] == []


def test_chinese_and_emoji(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.ask("你好，世界 👩‍🚀")
    expect(chat.log).to_contain_text("base heard: 你好，世界 👩‍🚀")


def test_a_reply_that_fails_keeps_its_text(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(script("half a reply", "<fail>")))
    chat.ask("precious words")
    expect(chat.log).to_contain_text("not enough memory")
    expect(chat.log).to_contain_text("precious words")
    expect(chat.log).to_contain_text("half a reply")
    expect(chat.send).to_be_visible()


def test_old_turns_are_dropped_with_a_notice(open_page: OpenPage) -> None:
    engine = FakeEngine(echo, context_length=400)
    chat = open_page(engine)
    for word in ("one", "two"):
        chat.ask(f"{word} " + "x" * 100)
        expect(chat.log).to_contain_text(f"base heard: {word}")
        expect(chat.send).to_be_visible()
    chat.ask("three")
    expect(chat.log).to_contain_text("oldest 2 messages")
    assert "one " not in "".join(map(chr, engine.requests[-1].prompt_ids))


def test_a_question_that_is_too_long_is_refused_and_stays(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo, context_length=200))
    chat.ask("y" * 500)
    expect(chat.log).to_contain_text("The question alone is")
    expect(chat.log).to_contain_text("yyyy")


def test_sending_while_the_model_loads_waits(open_page: OpenPage) -> None:
    loading = threading.Event()
    chat = open_page(FakeEngine(echo), ready=False, loading=loading)
    expect(chat.page.locator("#status progress")).to_be_visible()
    chat.ask("early bird")
    expect(chat.log).to_contain_text("still loading")
    loading.set()
    expect(chat.log).to_contain_text("base heard: early bird")
    expect(chat.log).not_to_contain_text("still loading")
    expect(chat.page.locator("#status")).to_contain_text("8bit")
    chat.choose("Adapter", "pirate")


def test_a_failed_load_shows_its_reason_and_keeps_the_message(open_page: OpenPage) -> None:
    failure = ModelFolderError(verbatim("The weights are torn", "Download them again."))
    chat = open_page(FakeEngine(echo), fail=failure)
    expect(chat.page.locator("#notice")).to_contain_text("Download them again.")
    chat.ask("precious words")
    expect(chat.log).to_contain_text("precious words")
    expect(chat.page.locator("#notice")).to_contain_text("torn")


def test_the_settings_reach_the_engine(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    chat.settings()
    chat.page.get_by_role("radio", name="Precise").check()
    expect(chat.page.get_by_role("spinbutton", name=re.compile("Temperature"))).to_have_value("0")
    chat.page.get_by_role("textbox", name="System prompt").fill("Be brief.")
    chat.page.get_by_role("spinbutton", name="Seed").fill("7")
    chat.page.get_by_role("spinbutton", name="Seed").blur()
    chat.ask("hello")
    expect(chat.log).to_contain_text("base heard")
    request = engine.requests[-1]
    assert (request.sampling.temperature, request.sampling.seed) == (0, 7)
    assert "system\nBe brief." in "".join(map(chr, request.prompt_ids))


@pytest.mark.parametrize(
    ("locale", "word"),
    [("zh-CN", "发送"), pytest.param("zh-TW", "发送", marks=pytest.mark.slow), ("de", "Send")],
)
def test_the_browsers_language(open_page: OpenPage, locale: str, word: str) -> None:
    chat = open_page(FakeEngine(echo), locale=locale)
    expect(chat.page.get_by_role("button", name=word, exact=True)).to_be_visible()


def test_the_language_switch_is_remembered(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    expect(chat.send).to_be_visible()
    chat.page.get_by_role("radio", name="中文").click()
    send = chat.page.get_by_role("button", name="发送", exact=True)
    expect(send).to_be_visible()
    expect(chat.page.get_by_label("适配器")).to_have_value("基础模型（fake-base）")
    chat.page.reload()
    expect(send).to_be_visible()
    chat.page.get_by_role("textbox", name="消息").fill("你好")
    send.click()
    expect(chat.log).to_contain_text("词元/秒")


def test_dark_and_light(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo), color_scheme="dark")
    dark = "document.body.classList.contains('dark')"
    assert chat.page.evaluate(dark) is True
    chat.page.get_by_role("button", name="Dark / light").click()
    chat.page.wait_for_function(f"!{dark}")


@pytest.mark.slow
def test_a_phone_needs_no_sideways_scrolling(open_page: OpenPage) -> None:
    code = "```\n" + "wide " * 60 + "\n```\n" + "w" * 300
    chat = open_page(FakeEngine(script(code)), viewport={"width": 360, "height": 740})
    chat.ask("x" * 300)
    expect(chat.log).to_contain_text("tokens/s")
    widths = "[document.documentElement.scrollWidth, window.innerWidth]"
    scrolled, visible = chat.page.evaluate(widths)
    assert scrolled <= visible
    for control in (chat.message, chat.send, chat.new_chat, chat.regenerate):
        box = control.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= visible


def test_an_emptied_seed_means_a_new_one(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    chat.settings()
    chat.page.get_by_role("spinbutton", name="Seed").fill("")
    chat.page.get_by_role("spinbutton", name="Seed").blur()
    chat.ask("hello")
    expect(chat.log).to_contain_text("base heard: hello")
    expect(chat.send).to_be_visible()
    chat.ask("again")
    expect(chat.log).to_contain_text("base heard: again")
    assert len({request.sampling.seed for request in engine.requests}) == 2


def test_the_facts_stay_outside_of_an_unclosed_code_block(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(script("```python\nprint(1)")))
    chat.ask("code")
    expect(chat.log.locator(".assistant > .facts")).to_contain_text("tokens/s")
    expect(chat.log.locator("pre code")).not_to_contain_text("facts")


def test_two_visitors_at_once(open_page: OpenPage, browser: Browser) -> None:
    """Each gets the reply to their own question, from their own adapter."""
    engine = FakeEngine(echo, ticking=True)
    first = open_page(engine)
    url = first.page.url
    with browser.new_context() as context:
        second = ChatPage(context.new_page()).open(url)
        first.choose("Adapter", "pirate")
        first.ask("mine")
        second.ask("yours")
        expect(second.stop).to_be_visible()
        engine.tick(20)
        expect(first.log).to_contain_text("pirate heard: mine")
        expect(second.log).to_contain_text("base heard: yours")
        assert "yours" not in first.log.inner_text()
        assert "mine" not in second.log.inner_text()


def test_a_shared_page_asks_for_the_passphrase(browser: Browser) -> None:
    """Only visitors of the link are asked for it, not those on this machine."""
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    link = bind("127.0.0.1", 0)
    port = link.getsockname()[1]
    access = AccessPolicy(passphrase="abcd-efgh-jkmn", link_port=port)
    with serving(manager, access, link=link) as url, browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        expect(page.locator("#message")).to_be_visible()
        page.goto(f"http://127.0.0.1:{port}")
        name, password = page.get_by_label("Username"), page.get_by_label("Password")
        expect(page.get_by_text("as password, the passphrase")).to_be_visible()
        assert page.locator("#message").count() == 0
        name.fill("friend")
        password.fill("wrong")
        page.get_by_role("button", name="Login").click()
        expect(page.get_by_role("alert")).to_have_text("Wrong user name or password.")
        name.fill("friend")
        password.fill("abcd-efgh-jkmn")
        page.get_by_role("button", name="Login").click()
        expect(page.locator("#message")).to_be_visible()


@pytest.mark.slow
def test_a_script_is_loaded_at_the_second_attempt(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every part of the page failed to load it, and tries once more."""
    monkeypatch.setattr(custom_components, "RETRY_MS", 5_000)
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager) as url, browser.new_context() as context:
        page = context.new_page()
        page.route("**/page/message_list.js", lambda route: route.abort())
        page.goto(url)
        page.locator("#message textarea").wait_for()
        page.wait_for_timeout(1_500)
        page.unroute("**/page/message_list.js")
        chat = ChatPage(page)
        chat.ask("hello")
        expect(chat.log).to_contain_text("base heard: hello")


@pytest.mark.parametrize(
    ("locale", "sentence"),
    [("en", "A part of the page could not be loaded"), ("zh-CN", "页面未能完整加载")],
)
def test_a_script_that_cannot_be_loaded_shows_a_sentence(
    browser: Browser, locale: str, sentence: str
) -> None:
    """The page stayed blank, without a reason."""
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager) as url, browser.new_context(locale=locale) as context:
        page = context.new_page()
        page.route("**/page/message_list.js", lambda route: route.abort())
        page.goto(url)
        expect(page.locator("#log").get_by_role("alert")).to_contain_text(sentence)
