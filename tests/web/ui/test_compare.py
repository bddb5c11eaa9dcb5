"""Comparisons in a real browser: several replies to one question, and votes."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from model.errors import RequestError
from model.sampling import Sampling
from model.types import EngineRequest
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.conftest import OpenPage
from web.chats.store.models import ChatSettings
from web.ui.compare_panel import NO_RIVAL, chosen_rivals
from web.ui.presets import PRESETS

pytestmark = pytest.mark.slow

BASE, PIRATE, LINLY, TORN = "Base model", "● pirate", "● linly", "✕ torn"


def words(count: int) -> Callable[[str, EngineRequest], list[str]]:
    """Returns a script in which every reply counts, with its adapter's name."""

    def script(prompt: str, request: EngineRequest) -> list[str]:
        who = request.adapter.name if request.adapter else "base"
        return [f"{who}{i} " for i in range(count)]

    return script


def choose(chat: ChatPage, *rivals: str, presets: tuple[str, ...] = ()) -> None:
    """Opens the panel and chooses the rivals."""
    chat.page.get_by_role("button", name="Compare", exact=True).click()
    for number, rival in enumerate(rivals, 1):
        chat.choose(f"Rival {number}", rival)
    for number, preset in enumerate(presets, 1):
        chat.choose(f"Preset {number}", preset)


def ask_all(chat: ChatPage) -> None:
    chat.page.get_by_role("button", name="Ask all of them").click()


def compare(chat: ChatPage, text: str, *rivals: str) -> None:
    choose(chat, *rivals)
    chat.message.fill(text)
    ask_all(chat)


def columns(chat: ChatPage) -> Locator:
    return chat.log.locator(".comparison article")


def tick_until_all_reply(engine: FakeEngine, rivals: int, pieces: int = 1) -> None:
    """Ticks until each of the rivals' replies has so many pieces."""
    while len(engine.requests) < rivals:  # ticks before that would all go to the first ones
        time.sleep(0.02)
    while min(engine.emitted.get(request.id, 0) for request in engine.requests) < pieces:
        engine.tick()
        time.sleep(0.02)


@pytest.mark.browser
@pytest.mark.parametrize(
    "rivals",
    [(BASE, PIRATE), pytest.param((BASE, PIRATE, LINLY, PIRATE), marks=pytest.mark.slow)],
)
def test_rivals_stream_side_by_side(open_page: OpenPage, rivals: tuple[str, ...]) -> None:
    engine = FakeEngine(words(200), ticking=True)
    chat = open_page(engine)
    compare(chat, "who are you?", *rivals)
    tick_until_all_reply(engine, len(rivals))
    expect(columns(chat)).to_have_count(len(rivals))
    for column, rival in zip(columns(chat).all(), rivals, strict=True):
        own = "base" if rival == BASE else rival.partition(" ")[2]
        expect(column).to_have_attribute("aria-busy", "true")  # none of them has ended
        expect(column.locator(".body")).to_contain_text(f"{own}0")
        others = {"base", "pirate", "linly"} - {own}
        assert not [other for other in others if other in column.locator(".body").inner_text()]
    expect(chat.log.get_by_text("who are you?")).to_have_count(1)
    expect(chat.message).to_have_value("")
    chat.stop.click()
    expect(chat.send).to_be_visible()
    for column in columns(chat).all():
        expect(column).to_contain_text("Stopped")
        expect(column.locator(".body")).to_contain_text("0")  # the text so far stays
    assert {request.id for request in engine.requests} <= engine.aborted


@pytest.mark.browser
def test_one_adapter_with_two_presets(open_page: OpenPage) -> None:
    engine = FakeEngine(lambda p, r: [f"at {r.sampling.temperature:g}"])
    chat = open_page(engine)
    choose(chat, PIRATE, PIRATE, presets=("Precise", "Creative"))
    chat.message.fill("who?")
    ask_all(chat)
    expect(columns(chat).nth(0)).to_contain_text("at 0")
    expect(columns(chat).nth(1)).to_contain_text("at 1")
    expect(columns(chat).nth(0).get_by_role("heading")).to_have_text("pirate · Temperature 0")
    expect(columns(chat).nth(1).get_by_role("heading")).to_have_text("pirate · Temperature 1")
    assert {request.adapter.name for request in engine.requests if request.adapter} == {"pirate"}


def vote(chat: ChatPage, column: int) -> Locator:
    return columns(chat).nth(column).get_by_role("button", name="Best")


@pytest.mark.browser
def test_a_vote_is_changed_and_outlives_a_reload(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    compare(chat, "who?", BASE, PIRATE)
    expect(columns(chat).nth(1)).to_contain_text("pirate heard: who?")
    tie = chat.log.get_by_role("button", name="Tie")
    expect(vote(chat, 0)).to_be_enabled()
    vote(chat, 0).click()
    expect(vote(chat, 0)).to_have_attribute("aria-pressed", "true")
    tie.click()
    expect(tie).to_have_attribute("aria-pressed", "true")
    expect(vote(chat, 0)).to_have_attribute("aria-pressed", "false")
    vote(chat, 1).click()
    expect(vote(chat, 1)).to_have_attribute("aria-pressed", "true")
    chat.page.reload()
    expect(vote(chat, 1)).to_have_attribute("aria-pressed", "true")
    expect(vote(chat, 0)).to_have_attribute("aria-pressed", "false")
    expect(tie).to_have_attribute("aria-pressed", "false")


@pytest.mark.browser
def test_continuing_with_one_reply_and_returning_to_the_comparison(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    compare(chat, "who?", BASE, PIRATE, LINLY)
    expect(columns(chat).nth(2)).to_contain_text("linly heard")
    columns(chat).nth(1).get_by_role("button", name="Go on with this one").click()
    expect(columns(chat)).to_have_count(0)
    expect(chat.log).to_contain_text("pirate heard: who?")
    expect(chat.log).to_contain_text("2/3")
    chat.ask("and then?")
    expect(chat.log).to_contain_text("base heard: and then?")  # the adapter of the settings
    prompt = "".join(map(chr, engine.requests[-1].prompt_ids))
    assert "pirate heard: who?" in prompt
    assert "linly heard" not in prompt

    before = chat.log.get_by_role("button", name="Version before")
    before.click()
    expect(chat.log).to_contain_text("base heard: who?")
    expect(chat.log).not_to_contain_text("and then?")  # that was on another branch
    expect(before).to_be_disabled()
    after = chat.log.get_by_role("button", name="Version after")
    after.click()
    expect(chat.log).to_contain_text("base heard: and then?")
    after.click()
    expect(chat.log).to_contain_text("linly heard")
    expect(after).to_be_disabled()
    chat.log.get_by_role("button", name="Side by side").click()
    expect(columns(chat)).to_have_count(3)
    expect(chat.log.locator(".group > article")).to_have_count(1)


@pytest.mark.browser
def test_side_by_side_shows_the_comparison_of_that_reply(open_page: OpenPage) -> None:
    """A question can be compared twice; always the newest comparison was shown."""
    chat = open_page(FakeEngine(echo))
    compare(chat, "who?", BASE, PIRATE)
    expect(columns(chat).nth(1)).to_contain_text("pirate heard: who?")
    expect(chat.send).to_be_visible()
    chat.choose("Rival 2", LINLY)
    ask_all(chat)  # with an empty box: the same question
    expect(columns(chat).nth(1)).to_contain_text("linly heard")
    expect(columns(chat)).to_have_count(2)
    go_on = columns(chat).nth(0).get_by_role("button", name="Go on with this one")
    expect(go_on).to_be_enabled()
    go_on.click()
    expect(chat.log).to_contain_text("3/4")
    chat.log.get_by_role("button", name="Version before").click()
    expect(chat.log).to_contain_text("pirate heard: who?")
    chat.log.get_by_role("button", name="Side by side").click()
    expect(columns(chat).nth(1)).to_contain_text("pirate heard: who?")
    expect(columns(chat)).to_have_count(2)


@pytest.mark.browser
def test_an_empty_box_compares_the_last_question_again(open_page: OpenPage) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    chat.ask("who?")
    expect(chat.log).to_contain_text("base heard: who?")
    expect(chat.send).to_be_visible()
    compare(chat, "", PIRATE, LINLY)
    expect(columns(chat).nth(0)).to_contain_text("pirate heard: who?")
    expect(columns(chat).nth(1)).to_contain_text("linly heard")
    expect(chat.log.locator("article.user")).to_have_count(1)
    expect(chat.sidebar.get_by_role("listitem")).to_have_count(1)
    assert len(engine.requests) == 3


@pytest.mark.browser
@pytest.mark.parametrize(
    ("rivals", "presets", "sentence"),
    [
        ((BASE,), (), "A comparison needs at least two choices"),
        ((PIRATE, PIRATE), ("Precise", "Precise"), "Two of the choices are the same"),
    ],
)
def test_a_refused_comparison_keeps_the_text(
    open_page: OpenPage, rivals: tuple[str, ...], presets: tuple[str, ...], sentence: str
) -> None:
    engine = FakeEngine(echo)
    chat = open_page(engine)
    choose(chat, *rivals, presets=presets)
    chat.message.fill("precious words")
    ask_all(chat)
    expect(chat.page.locator(".linly-toast")).to_contain_text(sentence)
    expect(chat.message).to_have_value("precious words")
    expect(chat.sidebar.get_by_role("listitem")).to_have_count(0)
    assert engine.requests == []


@pytest.mark.browser
def test_comparing_without_a_question_is_refused(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    compare(chat, "", BASE, PIRATE)
    expect(chat.page.locator(".linly-toast")).to_contain_text("This chat has no question yet")


@pytest.mark.browser
def test_a_broken_rival_does_not_stop_the_others(open_page: OpenPage) -> None:
    chat = open_page(FakeEngine(echo))
    compare(chat, "who?", TORN, PIRATE, BASE)
    expect(columns(chat).nth(0)).to_contain_text("The adapter 'torn' is broken")
    expect(columns(chat).nth(1)).to_contain_text("pirate heard: who?")
    expect(columns(chat).nth(2)).to_contain_text("base heard: who?")
    expect(columns(chat).nth(1)).not_to_contain_text("broken")


@pytest.mark.browser
def test_votes_are_exported_as_preference_pairs(open_page: OpenPage) -> None:
    """As TRL takes them: prompts and replies are lists of messages, and a tie makes no pair."""
    chat = open_page(FakeEngine(echo))
    compare(chat, "who?", BASE, PIRATE, LINLY)
    expect(columns(chat).nth(2)).to_contain_text("linly heard")
    expect(vote(chat, 1)).to_be_enabled()
    vote(chat, 1).click()
    expect(vote(chat, 1)).to_have_attribute("aria-pressed", "true")
    chat.sidebar.get_by_text("Export and import").click()
    with chat.page.expect_download() as download:
        chat.sidebar.get_by_role("button", name="Export votes").click()
    pairs = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert len(pairs) == 2
    for pair in pairs:
        assert set(pair) == {"prompt", "chosen", "rejected"}
        assert pair["prompt"] == [{"role": "user", "content": "who?"}]
        assert [turn["role"] for turn in pair["chosen"] + pair["rejected"]] == ["assistant"] * 2
        assert pair["chosen"][0]["content"].startswith("pirate heard: who?")
    assert {pair["rejected"][0]["content"].split(" ")[0] for pair in pairs} == {"base", "linly"}
    chat.log.get_by_role("button", name="Tie").click()
    expect(vote(chat, 1)).to_have_attribute("aria-pressed", "false")
    chat.sidebar.get_by_text("Export and import").click()
    chat.sidebar.get_by_role("button", name="Export votes").click()
    expect(chat.page.locator(".linly-toast")).to_contain_text("There are no votes yet")


@pytest.mark.slow
@pytest.mark.browser
def test_a_comparison_interrupted_by_a_restart(browser: Browser, tmp_path: Path) -> None:
    with browser.new_context() as context:
        engine = FakeEngine(words(50), ticking=True)
        manager = fake_manager(engine)
        manager.wait()
        with serving(manager, data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(url)
            compare(chat, "who?", BASE, PIRATE)
            tick_until_all_reply(engine, 2, pieces=2)
            expect(columns(chat).nth(0)).to_contain_text("base0 base1")
            expect(columns(chat).nth(1)).to_contain_text("pirate0 pirate1")
            number = chat.page.url.partition("chat=")[2]
        manager = fake_manager(FakeEngine(lambda p, r: ["and on"]))
        manager.wait()
        with serving(manager, data=tmp_path) as url:
            chat = ChatPage(context.new_page()).open(f"{url}?chat={number}")
            expect(columns(chat).nth(0)).to_contain_text("base0 base1")
            expect(columns(chat).nth(1)).to_contain_text("pirate0 pirate1")
            for column in columns(chat).all():
                expect(column).to_contain_text("Interrupted")
            columns(chat).nth(1).get_by_role("button", name="Go on with this one").click()
            chat.log.get_by_role("button", name="Continue").click()
            expect(chat.log).to_contain_text(re.compile(r"pirate1( pirate\d+)* and on"))


@pytest.mark.browser
def test_a_new_chat_does_not_begin_with_the_compared_text(open_page: OpenPage) -> None:
    """The comparison took the text out of the box; its draft must not come back."""
    chat = open_page(FakeEngine(echo))
    choose(chat, BASE, PIRATE)
    chat.message.press_sequentially("who?")
    ask_all(chat)
    expect(columns(chat).nth(1)).to_contain_text("pirate heard: who?")
    expect(chat.send).to_be_visible()
    chat.new_chat.click()
    expect(columns(chat)).to_have_count(0)
    expect(chat.message).to_have_value("")


GREEDY = ChatSettings(sampling=Sampling(temperature=0))
SEEDED = ChatSettings(sampling=Sampling(seed=7))


@pytest.mark.parametrize(
    ("settings", "presets"),
    [
        (GREEDY, ("", "")),
        (SEEDED, ("", "")),
        (SEEDED, ("creative", "creative")),
        (
            ChatSettings(),
            ("precise", "precise"),
        ),  # was accepted, because the settings themselves sample
        (ChatSettings(sampling=Sampling(top_k=1)), ("", "")),
        # Greedy decoding ignores the other settings.
        (ChatSettings(sampling=Sampling(temperature=0, repetition_penalty=1.1)), ("", "precise")),
    ],
)
def test_rivals_that_would_reply_the_same_are_refused(
    settings: ChatSettings, presets: tuple[str, str]
) -> None:
    with pytest.raises(RequestError) as raised:
        chosen_rivals(settings, [("pirate", preset) for preset in presets], PRESETS)
    assert raised.value.text.code == "comparison_duplicates"


@pytest.mark.parametrize(
    ("settings", "adapters", "presets"),
    [
        (ChatSettings(), ("pirate", "pirate"), ("", "")),  # each samples with its own seed
        (GREEDY, ("pirate", "pirate"), ("creative", "creative")),  # was refused, but both sample
        (GREEDY, ("", "pirate"), ("", "")),
        (SEEDED, ("pirate", "pirate"), ("precise", "creative")),
    ],
)
def test_rivals_that_may_reply_differently_are_accepted(
    settings: ChatSettings, adapters: tuple[str, str], presets: tuple[str, str]
) -> None:
    assert len(chosen_rivals(settings, list(zip(adapters, presets, strict=True)), PRESETS)) == 2


def test_rivals_keep_the_template_only_with_its_adapter() -> None:
    settings = ChatSettings(
        adapter="pirate", template="alpaca", system="Be brief.", adapter_scale=0.5
    )
    rivals = chosen_rivals(settings, [("pirate", ""), (NO_RIVAL, ""), ("", "")], PRESETS)
    assert [(r.adapter, r.template) for r in rivals] == [("pirate", "alpaca"), (None, None)]
    assert {(r.system, r.adapter_scale) for r in rivals} == {("Be brief.", 0.5)}
