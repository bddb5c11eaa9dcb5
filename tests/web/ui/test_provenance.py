"""Provenance of replies, and exact reruns, in a real browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from model.config.settings import Settings
from model.serving.adapter_folders import Adapter
from model.serving.manager import ModelManager
from model.types import EngineRequest
from tests.fake_engine import ADAPTERS, FakeEngine, echo, fake_load, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PIRATE, LINLY, _ = ADAPTERS


def sampled_words(prompt: str, request: EngineRequest) -> list[str]:
    """Returns the reply of a model that samples: it depends on seed and adapter."""
    who = request.adapter.name if request.adapter else "base"
    return [f"{who} ", "says ", f"{request.sampling.seed} ", "and ", "more"]


def reply(chat: ChatPage, number: int = -1) -> Locator:
    return chat.log.locator("article.assistant").nth(number)


def rows(article: Locator) -> dict[str, str]:
    """Returns the provenance of a reply by label."""
    details = article.locator("details")
    if details.get_attribute("open") is None:
        details.locator("summary").click()
    labels, values = details.locator("dt"), details.locator("dd")
    expect(labels.first).to_be_visible()
    return dict(zip(labels.all_inner_texts(), values.all_inner_texts(), strict=True))


def ask(chat: ChatPage, text: str, answer: str) -> None:
    chat.ask(text)
    expect(chat.log).to_contain_text(answer)
    expect(chat.send).to_be_visible()


def again(chat: ChatPage) -> None:
    button = reply(chat).get_by_role("button", name="Run again exactly")
    if not button.is_visible():
        reply(chat).locator("summary").click()
    button.click()


def test_provenance_shows_the_run_s_values(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    chat.choose("Adapter", "● pirate")
    chat.settings()
    page = chat.page
    page.get_by_label("Strength as a number").fill("0.5")
    page.get_by_label("Strength as a number").blur()
    page.get_by_role("textbox", name="System prompt").fill("Be <b>brief</b>.")
    page.get_by_role("spinbutton", name="Seed").fill("42")
    ask(chat, "hello", "pirate heard: hello")
    (request,) = engine.requests
    shown = rows(reply(chat))
    assert shown == {
        "Adapter": "pirate",
        "Its digest": "d1d1d1d1d1d1",
        "Strength": "0.5",
        "Base model": "fake-base",
        "Quantisation": "8bit",
        "Prompt template": "model",
        "System prompt": "Be <b>brief</b>.",
        "Seed": "42",
        "Preset": "temperature 0.7, top p 0.9, top k 40, min p 0, repetition penalty 1.1, "
        "at most 512 tokens",
        "Tokens": f"3 in reply to {len(request.prompt_ids)}, of which 2 were known already",
        "Speed": "10.0 tokens/s, the first after 0.10 s",
    }
    assert request.sampling.seed == 42


def test_provenance_of_the_base_shows_the_drawn_seed(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    ask(chat, "hello", "base heard: hello")
    shown = rows(reply(chat))
    assert (shown["Adapter"], shown["Its digest"], shown["Strength"]) == ("–", "–", "–")
    assert shown["Seed"] == str(engine.requests[0].sampling.seed)


def test_rerun_gives_the_same_reply(open_page: OpenPage) -> None:
    """The settings may have changed since."""
    engine = FakeEngine(sampled_words)
    chat = open_page(engine)
    chat.choose("Adapter", "● pirate")
    ask(chat, "hello", "and more")
    first = reply(chat).locator(".body").inner_text()
    chat.choose("Adapter", "Base model")
    chat.settings()
    chat.page.get_by_role("spinbutton", name="Seed").fill("1")
    again(chat)
    expect(reply(chat)).to_contain_text("Run again: the same text, to the last character.")
    expect(reply(chat).locator(".body")).to_have_text(first)
    expect(chat.log).to_contain_text("2/2")
    one, two = engine.requests
    assert (one.prompt_ids, one.sampling) == (two.prompt_ids, two.sampling)


def test_rerun_shows_that_its_text_differs(open_page: OpenPage) -> None:
    counter = iter(range(9))
    chat = open_page(FakeEngine(lambda prompt, request: [f"attempt {next(counter)}"]))
    ask(chat, "hello", "attempt 0")
    again(chat)
    expect(reply(chat)).to_contain_text("Run again: the text is another one.")


def test_rerun_of_a_stopped_reply_ends_at_the_same_place(open_page: OpenPage) -> None:
    engine = FakeEngine(sampled_words, ticking=True)
    chat = open_page(engine)
    chat.ask("hello")
    engine.tick(2)
    expect(chat.log).to_contain_text("base says")
    chat.stop.click()
    expect(chat.send).to_be_visible()
    assert rows(reply(chat))["Tokens"].startswith("2 in reply to")
    engine.tick(9)
    again(chat)
    expect(reply(chat)).to_contain_text("Run again: the same text")
    expect(reply(chat).locator(".body")).to_have_text("base says")


def test_provenance_of_a_continued_reply_has_both_runs(open_page: OpenPage) -> None:
    def script(prompt: str, request: EngineRequest) -> list[str]:
        begun = prompt.split("assistant\n")[-1]
        return ["three ", "four"] if begun else ["one ", "two ", "never "]

    engine = FakeEngine(script, ticking=True)
    chat = open_page(engine)
    chat.settings()
    chat.page.get_by_role("spinbutton", name="Seed").fill("5")
    chat.ask("count")
    engine.tick(2)
    expect(chat.log).to_contain_text("one two")
    chat.stop.click()
    chat.log.get_by_role("button", name="Continue").click()
    engine.tick(9)
    expect(reply(chat)).to_contain_text("one two three four")
    expect(chat.send).to_be_visible()
    shown = rows(reply(chat))
    assert shown["Seed"] == "5, 5"
    assert shown["Tokens"].startswith("4 in reply to")
    again(chat)
    expect(reply(chat)).to_contain_text("Run again: the same text")
    expect(reply(chat).locator(".body")).to_have_text("one two three four")
    assert [request.so_far for request in engine.requests] == ["", "one two ", "", "one two "]


def test_regenerating_with_another_adapter(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.choose("Adapter", "● pirate")
    ask(chat, "hello", "pirate heard: hello")
    chat.choose("Adapter", "● linly")
    reply(chat).get_by_role("button", name="Answer again").click()
    expect(chat.log).to_contain_text("linly heard")
    expect(chat.send).to_be_visible()
    shown = rows(reply(chat))
    assert (shown["Adapter"], shown["Its digest"]) == ("linly", "d2d2d2d2d2d2")
    assert shown["Prompt template"] == "linly"
    chat.log.get_by_role("button", name="Version before").click()
    expect(chat.log).to_contain_text("pirate heard: hello")
    assert rows(reply(chat))["Its digest"] == "d1d1d1d1d1d1"


def refused(chat: ChatPage, sentence: str) -> None:
    """Checks that the rerun is refused, and no message is added."""
    again(chat)
    expect(chat.page.locator(".linly-toast")).to_contain_text(sentence)
    expect(chat.log.locator("article")).to_have_count(2)
    assert "2/2" not in chat.log.inner_text()


def test_rerun_refuses_a_changed_adapter(open_page: OpenPage) -> None:
    adapters: list[Adapter] = [PIRATE]
    engine = FakeEngine(echo)
    chat = open_page(engine, adapters=adapters)
    chat.choose("Adapter", "● pirate")
    ask(chat, "hello", "pirate heard: hello")
    adapters[0] = replace(PIRATE, digest="ff" * 32)
    refused(chat, "The adapter pirate has changed since it made this reply")
    assert len(engine.requests) == 1


@pytest.mark.parametrize(
    "settings",
    [Settings(base_model="other-base"), Settings(base_model="fake-base", quantization="none")],
)
def test_rerun_refuses_another_base(browser: Browser, tmp_path: Path, settings: Settings) -> None:
    with browser.new_context() as context:
        manager = fake_manager(FakeEngine(echo))
        manager.wait()
        with serving(manager, data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(url)
            ask(chat, "hello", "base heard: hello")
            number = chat.page.url.partition("chat=")[2]
        engine = FakeEngine(echo, quantization=settings.quantization)
        manager = ModelManager(settings, fake_load(engine))
        manager.start()
        manager.wait()
        with serving(manager, data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(f"{url}?chat={number}")
            refused(chat, "This reply was made by fake-base in 8bit")
