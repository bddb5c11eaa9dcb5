"""Context meter, queue, keys, presets and saved prompts, in a real browser."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from model.types import Delta, Emit, EngineRequest, Queued
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def ask(chat: ChatPage, text: str, answer: str) -> None:
    chat.ask(text)
    expect(chat.log).to_contain_text(answer)
    expect(chat.send).to_be_visible()


def meter(chat: ChatPage, tokens: int) -> None:
    expect(chat.page.locator("#meter")).to_contain_text(f"{tokens} of 2000 tokens")


def length(*turns: str) -> int:
    """Returns a chat's length in the fake base's template, whose tokens are letters."""
    marks = len("<|im_start|>\n<|im_end|>\n")
    roles = ("user", "assistant")
    return sum(len(roles[n % 2]) + len(turn) + marks for n, turn in enumerate(turns))


def test_the_meter_follows_the_chat_and_its_settings(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    expect(chat.page.locator("#meter meter")).to_have_count(0)
    ask(chat, "hello", "base heard: hello")
    size = length("hello", "base heard: hello ")
    meter(chat, size)
    ask(chat, "more", "base heard: more")
    size += length("more", "base heard: more ")
    meter(chat, size)
    chat.settings()
    box = chat.page.get_by_role("textbox", name="System prompt")
    box.fill("Be brief.")  # as if pasted, which Gradio does not report
    box.blur()
    size += len("<|im_start|>system\nBe brief.<|im_end|>\n")
    meter(chat, size)
    chat.page.reload()
    meter(chat, size)
    chat.new_chat.click()
    expect(chat.page.locator("#meter meter")).to_have_count(0)


def test_the_meter_appears_once_the_model_is_ready(browser: Browser, tmp_path: Path) -> None:
    """The chat was opened while the model was loading."""
    with browser.new_context() as context:
        manager = fake_manager(FakeEngine(echo))
        manager.wait()
        with serving(manager, data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(url)
            ask(chat, "hello", "base heard: hello")
            number = chat.page.url.partition("chat=")[2]
        loading = threading.Event()
        with serving(fake_manager(FakeEngine(echo), loading), data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(f"{url}?chat={number}")
            expect(chat.log).to_contain_text("base heard: hello")
            loading.set()
            meter(chat, length("hello", "base heard: hello "))


def test_turns_that_do_not_fit_are_counted(open_page: OpenPage) -> None:
    engine = FakeEngine(lambda prompt, request: ["y" * 400])
    chat = open_page(engine)
    for number in range(3):
        chat.ask(f"{number}" * 400)
        expect(chat.log.locator("article.assistant")).to_have_count(number + 1)
        expect(chat.send).to_be_visible()
    last = chat.log.locator("article.assistant").last
    expect(last).to_contain_text("the oldest 2 messages (")
    tokens = re.search(r"oldest 2 messages \((\d+) tokens\)", last.inner_text())
    assert tokens
    assert int(tokens[1]) == length("0" * 400, "y" * 400)
    assert "000" not in "".join(map(chr, engine.requests[-1].prompt_ids))
    expect(chat.log.locator("article.assistant").first).not_to_contain_text("oldest")


class QueueingEngine(FakeEngine):
    """An engine that reports every request as the third in the queue."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        emit(Delta(queued=Queued(2, "slots", 7.4)))
        super().submit(request, emit)


def test_a_waiting_reply_shows_its_place_in_the_queue(open_page: OpenPage) -> None:
    engine = QueueingEngine(echo, ticking=True)
    chat = open_page(engine)
    chat.ask("hello")
    place = "Waiting until another reply has ended: number 3 in the queue, about 7 s."
    expect(chat.log).to_contain_text(place)
    chat.page.reload()
    expect(chat.log).to_contain_text(place)
    engine.tick(9)
    expect(chat.log).to_contain_text("base heard: hello")
    expect(chat.log).not_to_contain_text("Waiting until")


def test_escape_stops(open_page: OpenPage) -> None:
    engine = FakeEngine(lambda prompt, request: ["word "] * 99, ticking=True)
    chat = open_page(engine)
    chat.message.fill("go on")
    chat.message.press("Enter")
    engine.tick(2)
    expect(chat.log).to_contain_text("word word")
    chat.page.keyboard.press("Escape")
    expect(chat.log).to_contain_text("Stopped")
    expect(chat.send).to_be_visible()
    assert engine.requests[0].id in engine.aborted


def test_escape_closes_a_list_and_stops_no_reply(open_page: OpenPage) -> None:
    engine = FakeEngine(lambda prompt, request: ["word "] * 99, ticking=True)
    chat = open_page(engine)
    chat.ask("go on")
    engine.tick(2)
    expect(chat.log).to_contain_text("word word")
    chat.page.get_by_label("Adapter", exact=True).click()
    expect(chat.page.get_by_role("option", name="pirate")).to_be_visible()
    chat.page.keyboard.press("Escape")
    engine.tick()
    expect(chat.log).to_contain_text("word word word")
    assert not engine.aborted
    chat.stop.click()
    expect(chat.send).to_be_visible()


def test_the_arrow_up_edits_the_last_question_only_in_an_empty_box(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    ask(chat, "first", "base heard: first")
    ask(chat, "second", "base heard: second")
    editor = chat.log.get_by_role("textbox")
    chat.message.fill("half a thought")
    chat.message.press("ArrowUp")
    expect(editor).to_have_count(0)
    chat.message.fill("")
    chat.message.press("ArrowUp")
    expect(editor).to_have_value("second")
    expect(editor).to_be_focused()
    editor.press("Escape")
    expect(editor).to_have_count(0)
    expect(chat.log).to_contain_text("base heard: second")


def open_accordion(chat: ChatPage, title: str) -> None:
    """Opens a part of the settings."""
    chat.page.locator("#settings").get_by_role("button", name=title).click()


def preset(chat: ChatPage, name: str) -> Locator:
    return chat.page.get_by_role("radio", name=name, exact=True)


def press(chat: ChatPage, name: str) -> None:
    chat.page.get_by_role("button", name=name, exact=True).click()


def toast(chat: ChatPage, sentence: str) -> None:
    expect(chat.page.locator(".linly-toast").last).to_contain_text(sentence)


def save_preset(chat: ChatPage, name: str) -> None:
    chat.page.get_by_role("textbox", name="Name of the preset").fill(name)
    press(chat, "Save preset")


def test_presets_are_saved_used_and_deleted(open_page: OpenPage, browser: Browser) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    chat.settings()
    chat.slide("Temperature", "1.35")
    open_accordion(chat, "Presets of your own")
    save_preset(chat, "  Wild <b>  ")
    expect(preset(chat, "Wild <b>")).to_be_checked()
    expect(chat.page.get_by_role("textbox", name="Name of the preset")).to_have_value("")
    preset(chat, "Precise").check()
    expect(chat.page.get_by_label("Temperature as a number")).to_have_value("0")
    ask(chat, "hello", "base heard: hello")
    assert engine.requests[-1].sampling.temperature == 0
    chat.page.reload()
    chat.settings()
    preset(chat, "Wild <b>").check()
    expect(chat.page.get_by_label("Temperature as a number")).to_have_value("1.35")
    ask(chat, "more", "base heard: more")
    assert engine.requests[-1].sampling.temperature == 1.35
    chat.page.reload()  # the chat stores it
    chat.settings()
    expect(preset(chat, "Wild <b>")).to_be_checked()

    with browser.new_context() as context:
        other = ChatPage(context.new_page()).open(chat.page.url.partition("?")[0])
        other.settings()
        expect(preset(other, "Precise")).to_be_visible()
        expect(preset(other, "Wild <b>")).to_have_count(0)

    open_accordion(chat, "Presets of your own")
    press(chat, "Delete preset")
    expect(preset(chat, "Wild <b>")).to_have_count(0)
    expect(chat.page.get_by_label("Temperature as a number")).to_have_value("1.35")
    ask(chat, "still here", "base heard: still here")


def test_invalid_presets_are_refused(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    chat.settings()
    open_accordion(chat, "Presets of your own")
    press(chat, "Save preset")
    toast(chat, "A name must have 1 to 60 characters")
    save_preset(chat, "x" * 61)
    expect(chat.page.locator(".linly-toast")).to_have_count(2)
    expect(chat.page.get_by_role("textbox", name="Name of the preset")).to_have_value("x" * 61)
    preset(chat, "Balanced").check()
    press(chat, "Delete preset")
    toast(chat, "Only your own presets can be deleted")
    expect(preset(chat, "Balanced")).to_be_visible()
    save_preset(chat, "Balanced")  # differs from the built-in one
    expect(preset(chat, "Balanced")).to_have_count(2)


def test_a_preset_that_another_tab_deleted(open_page: OpenPage) -> None:
    """Gradio refused the value, with an error of its own."""
    chat = open_page(FakeEngine(echo))
    chat.settings()
    open_accordion(chat, "Presets of your own")
    save_preset(chat, "Mine")
    expect(preset(chat, "Mine")).to_be_checked()
    other = ChatPage(chat.page.context.new_page()).open(chat.page.url)
    other.settings()
    preset(other, "Mine").check()
    open_accordion(other, "Presets of your own")
    press(chat, "Delete preset")
    expect(preset(other, "Mine")).to_have_count(0)
    press(other, "Delete preset")
    ask(other, "hello", "base heard: hello")
    assert other.complaints == []


def save_prompt(chat: ChatPage, name: str, text: str) -> None:
    chat.message.fill(text)
    chat.page.get_by_role("textbox", name="Name of the prompt").fill(name)
    press(chat, "Save prompt")


@pytest.fixture
def prompts(open_page: OpenPage) -> ChatPage:
    chat = open_page(FakeEngine(echo))
    chat.settings()
    open_accordion(chat, "Saved prompts")
    return chat


def insert(chat: ChatPage, name: str) -> None:
    box = chat.page.get_by_label("Insert a prompt")
    box.click()
    chat.page.get_by_role("option", name=name, exact=True).click()


def test_prompts_are_saved_inserted_and_deleted(prompts: ChatPage, browser: Browser) -> None:
    chat = prompts
    save_prompt(chat, "Summary", "Sum it up:\nin three lines")
    insert(chat, "Summary")  # behind the typed text, which is the prompt itself here
    expect(chat.message).to_have_value("Sum it up:\nin three lines\nSum it up:\nin three lines")
    chat.page.reload()
    chat.settings()
    open_accordion(chat, "Saved prompts")
    expect(chat.message).to_have_value("Sum it up:\nin three lines\nSum it up:\nin three lines")
    chat.message.fill("")
    insert(chat, "Summary")
    expect(chat.message).to_have_value("Sum it up:\nin three lines")
    chat.message.fill("A text.")
    insert(chat, "Summary")  # again, the same one
    expect(chat.message).to_have_value("A text.\nSum it up:\nin three lines")
    ask(chat, "A text.", "base heard: A text.")
    save_prompt(chat, "Summary", "Another one")  # in its place
    chat.message.fill("")
    insert(chat, "Summary")
    expect(chat.message).to_have_value("Another one")

    with browser.new_context() as context:
        other = ChatPage(context.new_page()).open(chat.page.url.partition("?")[0])
        other.settings()
        open_accordion(other, "Saved prompts")
        other.page.get_by_label("Insert a prompt").click()
        expect(other.page.get_by_role("option")).to_have_count(0)

    expect(chat.page.get_by_role("textbox", name="Name of the prompt")).to_have_value("Summary")
    press(chat, "Delete prompt")
    expect(chat.page.get_by_role("textbox", name="Name of the prompt")).to_have_value("")
    chat.page.get_by_label("Insert a prompt").click()
    expect(chat.page.get_by_role("option")).to_have_count(0)


def test_invalid_prompts_are_refused(prompts: ChatPage) -> None:
    chat = prompts
    press(chat, "Delete prompt")
    toast(chat, "No saved prompt is chosen")
    save_prompt(chat, "Empty", "  ")
    toast(chat, "The message box is empty")
    save_prompt(chat, " ", "precious words")
    toast(chat, "A name must have 1 to 60 characters")
    expect(chat.message).to_have_value("precious words")
