"""Adapters on the page, in a real browser: the list, the replies, and the settings of chats."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from model.diagnostics import finding
from model.serving.adapter_folders import Adapter
from tests.fake_engine import ADAPTERS, FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PIRATE, LINLY, TORN = ADAPTERS
NEWLY = Adapter("newly", Path("newly"), "Fresh from the training", digest="d9" * 32)
ZERO = finding("tensor_zero", name="lora_B", file="adapter_model.safetensors")
WARNED = replace(PIRATE, name="warned", description="A doubtful one", warnings=(ZERO,))


def box(chat: ChatPage) -> Locator:
    return chat.page.get_by_label("Adapter", exact=True)


def offered(chat: ChatPage) -> list[str]:
    """Returns the offered adapters, once the model is ready."""
    expect(chat.page.locator("#status")).to_contain_text("fake-base")
    return chat.offered()


def ask(chat: ChatPage, text: str, answer: str) -> None:
    chat.ask(text)
    expect(chat.log).to_contain_text(answer)
    expect(chat.send).to_be_visible()


def test_the_list_shows_each_adapter_s_state(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo), adapters=[PIRATE, TORN, WARNED])
    expect(box(chat)).to_have_value("Base model (fake-base)")
    assert offered(chat) == [
        "Base model (fake-base)",
        "● pirate: Talks like a pirate",
        "✕ torn: broken, it has no adapter_model.safetensors",
        "▲ warned: A doubtful one "
        "(note: All values of lora_B in adapter_model.safetensors are zero)",
    ]


def test_a_new_adapter_appears_by_itself(open_page: OpenPage) -> None:
    adapters = [PIRATE]
    chat = open_page(FakeEngine(echo), adapters=adapters)
    assert offered(chat) == ["Base model (fake-base)", "● pirate: Talks like a pirate"]
    adapters.append(NEWLY)
    box(chat).click()
    expect(chat.page.get_by_role("option", name="● newly: Fresh")).to_be_visible()
    chat.page.get_by_role("option", name="● newly: Fresh").click()
    ask(chat, "hello", "newly heard: hello")


def test_a_removed_adapter_leaves_the_list(open_page: OpenPage) -> None:
    adapters = [PIRATE, LINLY]
    chat = open_page(FakeEngine(echo), adapters=adapters)
    assert len(offered(chat)) == 3
    drawn = box(chat).element_handle()
    adapters.remove(LINLY)
    # The page updates by itself. A drop-down that loses choices is drawn anew, which closes it.
    chat.page.wait_for_function("(box) => !box.isConnected", arg=drawn)
    assert offered(chat) == ["Base model (fake-base)", "● pirate: Talks like a pirate"]


def test_a_chosen_adapter_that_is_removed(open_page: OpenPage) -> None:
    """Gradio refuses a value that is no longer a choice: nothing could be sent, and the error was
    Gradio's own."""
    adapters = [PIRATE]
    engine = FakeEngine(echo)
    chat = open_page(engine, adapters=adapters)
    chat.choose("Adapter", "● pirate")
    ask(chat, "hello", "pirate heard: hello")
    adapters.clear()
    expect(box(chat)).to_have_value("")
    chat.ask("precious words")
    toast = chat.page.locator(".linly-toast")
    expect(toast).to_contain_text("The adapter pirate no longer exists")
    expect(chat.message).to_have_value("precious words")
    expect(chat.log.locator("article")).to_have_count(2)
    chat.choose("Adapter", "Base model")
    chat.send.click()
    expect(chat.log).to_contain_text("base heard: precious words")
    assert len(engine.requests) == 2


def test_a_compared_adapter_that_is_removed(open_page: OpenPage) -> None:
    """The others reply, and its column shows the error."""
    adapters = [PIRATE]
    chat = open_page(FakeEngine(echo), adapters=adapters)
    chat.page.get_by_role("button", name="Compare", exact=True).click()
    chat.choose("Rival 1", "● pirate")
    chat.choose("Rival 2", "Base model")
    adapters.clear()
    expect(chat.page.get_by_label("Rival 1")).to_have_value("")
    chat.message.fill("who?")
    chat.page.get_by_role("button", name="Ask all of them").click()
    columns = chat.log.locator(".comparison article")
    expect(columns.nth(0)).to_contain_text("There is no model or adapter 'pirate'")
    expect(columns.nth(1)).to_contain_text("base heard: who?")


def test_switching_the_adapter_keeps_the_chat_and_shows_the_prefill(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    ask(chat, "hello", "base heard: hello")
    chat.choose("Adapter", "● pirate")
    reading = chat.page.locator("#meter .reading")
    expect(reading).to_contain_text("pirate has read this chat")
    expect(chat.log).to_contain_text("base heard: hello")
    (read,) = engine.read
    assert read.adapter
    assert read.adapter.name == "pirate"
    prompt = "".join(map(chr, read.prompt_ids))
    assert "hello" in prompt
    assert "base heard: hello" in prompt
    line = reading.inner_text()
    assert f"{len(read.prompt_ids)} tokens, 2 of them from the cache" in line
    ask(chat, "and now?", "pirate heard: and now?")
    assert "".join(map(chr, engine.requests[-1].prompt_ids)).startswith(prompt)
    expect(reading).to_have_count(0)  # it belonged to the chat as it was then


def test_prefill_progress_is_shown_only_in_its_own_chat(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    ask(chat, "hello", "base heard: hello")
    chat.choose("Adapter", "● pirate")
    expect(chat.page.locator("#meter .reading")).to_contain_text("has read this chat")
    chat.new_chat.click()
    expect(chat.log).not_to_contain_text("hello")
    expect(chat.page.locator("#meter .reading")).to_have_count(0)


def test_the_adapter_scale_belongs_to_one_chat(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    chat.choose("Adapter", "● pirate")
    ask(chat, "plain", "pirate heard: plain")
    assert engine.requests[-1].adapter_scale == 1
    chat.new_chat.click()
    expect(chat.log).not_to_contain_text("plain")
    ask(chat, "half", "pirate heard: half")
    chat.settings()
    chat.slide("Strength", "0.5")
    ask(chat, "and now?", "pirate heard: and now?")
    assert engine.requests[-1].adapter_scale == 0.5
    expect(chat.log).to_contain_text("pirate × 0.5")
    chat.row("plain").click()
    expect(chat.page.get_by_label("Strength as a number")).to_have_value("1")
    ask(chat, "again", "pirate heard: again")
    assert engine.requests[-1].adapter_scale == 1


def test_over_a_model_server_the_adapter_scale_is_0_or_1(open_page: OpenPage) -> None:
    """It has no other scales, so the page offers none."""
    engine = FakeEngine(echo, name="remote")
    chat = open_page(engine)
    chat.choose("Adapter", "● pirate")
    chat.settings()
    expect(chat.page.get_by_text("A model server supports only 0 and 1")).to_be_visible()
    number = chat.page.get_by_label("Strength as a number")
    expect(number).to_have_attribute("max", "1")
    expect(number).to_have_attribute("step", "1")
    ask(chat, "whole", "pirate heard: whole")
    chat.slide("Strength", "0")
    ask(chat, "off", "pirate heard: off")
    assert [request.adapter_scale for request in engine.requests] == [1, 0]


def set_up(chat: ChatPage) -> None:
    """Makes a chat in which every setting differs from its default."""
    chat.choose("Adapter", "● pirate")
    chat.settings()
    chat.slide("Strength", "0.75")
    chat.slide("Temperature", "1.5")
    chat.slide("Longest reply in tokens", "64")
    chat.page.get_by_role("textbox", name="System prompt").fill("Be a poet.")
    chat.page.get_by_role("spinbutton", name="Seed").fill("42")
    chat.choose("Prompt template", "Alpaca")
    ask(chat, "set up", "pirate heard")


def is_set_up(chat: ChatPage) -> None:
    expect(box(chat)).to_have_value(re.compile("● pirate"))
    page = chat.page
    expect(page.get_by_label("Strength as a number")).to_have_value("0.75")
    expect(page.get_by_label("Temperature as a number")).to_have_value("1.5")
    expect(page.get_by_label("Longest reply in tokens as a number")).to_have_value("64")
    expect(page.get_by_label("System prompt")).to_have_value("Be a poet.")
    expect(page.get_by_label("Seed")).to_have_value("42")
    expect(page.get_by_label("Prompt template")).to_have_value(re.compile("Alpaca"))


@pytest.mark.slow
def test_settings_come_back_with_their_chat(browser: Browser, tmp_path: Path) -> None:
    """When it is opened, in another tab, after a restart, and while the model is loading: then
    the adapters are not known yet, and the chat went on with the base."""
    with browser.new_context() as context:
        engine = FakeEngine(echo)
        manager = fake_manager(engine)
        manager.wait()
        with serving(manager, data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(url)
            set_up(chat)
            original = engine.requests[-1]
            chat.new_chat.click()
            expect(chat.log).not_to_contain_text("set up")
            chat.choose("Adapter", "Base model")
            chat.slide("Strength", "1")
            chat.page.get_by_role("textbox", name="System prompt").fill("")
            ask(chat, "another", "base heard")
            chat.row("set up").click()
            is_set_up(chat)
            number = chat.page.url.partition("chat=")[2]
            other = ChatPage(context.new_page()).open(f"{url}?chat={number}")
            other.settings()
            is_set_up(other)
            other.row("another").click()
            expect(box(other)).to_have_value("Base model (fake-base)")
            expect(other.page.get_by_label("System prompt")).to_have_value("")
        loading = threading.Event()
        engine = FakeEngine(echo)
        with serving(fake_manager(engine, loading), data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(f"{url}?chat={number}")
            chat.settings()
            expect(chat.page.get_by_label("System prompt")).to_have_value("Be a poet.")
            chat.ask("early")
            expect(chat.log).to_contain_text("The model is still loading")
            loading.set()
            expect(chat.log).to_contain_text("pirate heard")
            is_set_up(chat)
        again = engine.requests[-1]
        assert again.adapter
        assert again.adapter.name == "pirate"
        assert (again.adapter_scale, again.sampling) == (original.adapter_scale, original.sampling)
        assert "Be a poet." in "".join(map(chr, again.prompt_ids))


def test_a_chat_whose_adapter_is_gone(open_page: OpenPage) -> None:
    adapters = [PIRATE]
    chat = open_page(FakeEngine(echo), adapters=adapters)
    chat.choose("Adapter", "● pirate")
    ask(chat, "hello", "pirate heard: hello")
    adapters.clear()
    chat.page.reload()
    toast = chat.page.locator(".linly-toast")
    expect(toast).to_contain_text("pirate no longer exists: this chat continues with Base model")
    expect(box(chat)).to_have_value("Base model (fake-base)")
    expect(chat.log).to_contain_text("pirate heard: hello")
    ask(chat, "and now?", "base heard: and now?")


def test_a_base_without_a_chat_template(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo), tuned=False)
    expect(chat.page.locator("#notice")).to_contain_text("This base has no chat template")
    tuned = open_page(FakeEngine(echo))
    expect(tuned.page.locator("#status")).to_contain_text("fake-base")
    expect(tuned.page.locator("#notice")).to_have_count(0)


def test_a_late_settings_request_does_not_change_another_chat(open_page: OpenPage) -> None:
    """The request that stores a chat's settings may arrive after the next chat was opened."""
    engine = FakeEngine(echo)
    chat = open_page(engine)
    ask(chat, "first", "base heard: first")
    chat.new_chat.click()
    expect(chat.log).not_to_contain_text("first")
    ask(chat, "second", "base heard: second")
    chat.settings()
    delayed: list[Route] = []

    def hold(route: Route) -> None:  # the first one
        if delayed:
            route.continue_()
        else:
            delayed.append(route)

    chat.page.route("**/page/actions/**", hold)
    box = chat.page.get_by_label("System prompt")
    box.fill("Be a poet.")
    box.blur()
    while not delayed:
        chat.page.wait_for_timeout(20)
    chat.row("first").click()  # waits in the queue
    with chat.page.expect_response("**/page/actions/**"):
        delayed[0].continue_()
    expect(chat.log).to_contain_text("base heard: first")
    chat.page.reload()
    chat.settings()
    expect(chat.log).to_contain_text("base heard: first")
    expect(chat.page.get_by_label("System prompt")).to_have_value("")


def test_an_adapter_is_removed_while_the_list_is_open(open_page: OpenPage) -> None:
    """Gradio's list failed on the missing choice, and never opened again."""
    adapters = [PIRATE, LINLY]
    chat = open_page(FakeEngine(echo), adapters=adapters)
    assert len(offered(chat)) == 3
    box(chat).click()
    expect(chat.page.get_by_role("option", name="linly")).to_be_visible()
    adapters.remove(LINLY)
    expect(chat.page.get_by_role("option", name="linly")).to_have_count(0)
    chat.choose("Adapter", "● pirate")
    ask(chat, "hello", "pirate heard: hello")
