"""The public link's limits and its end. In these tests the link is a second port of the server."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import segno
from playwright.sync_api import Browser, Page, expect

from model.types import EngineRequest
from tests.fake_engine import ADAPTERS, FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from tests.web.page_client import Caller, shown_message
from web.access import AccessPolicy
from web.listen_socket import bind
from web.public_link import limits
from web.public_link.limits import HOUR, LinkLimitError, LinkRules, PublicLink

pytestmark = pytest.mark.slow

ADDRESS = "https://0123456789abcdef.gradio.live"


@dataclass
class Shared:
    """A page with an open public link, a scripted engine and a fake clock."""

    rules: LinkRules = field(default_factory=LinkRules)
    passphrase: str | None = None
    engine: FakeEngine = field(default_factory=lambda: FakeEngine(echo))
    now: float = 1_000_000.0
    own: str = ""
    link: str = ""
    tunnels_closed: int = 0

    def __post_init__(self) -> None:
        self.public = PublicLink(self.rules, self._close, self.passphrase, lambda: self.now)
        self.public.opened(ADDRESS)

    def _close(self) -> None:
        self.tunnels_closed += 1

    @contextlib.contextmanager
    def served(self) -> Iterator[Shared]:
        manager = fake_manager(self.engine, adapters=ADAPTERS)
        manager.wait()
        sock = bind("127.0.0.1", 0)
        port = sock.getsockname()[1]
        access = AccessPolicy(link_port=port, api_open=True)
        with serving(manager, access, link=sock, public=self.public) as own:
            self.own, self.link = own, f"http://127.0.0.1:{port}"
            yield self


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def shared(stack: ExitStack, rules: LinkRules | None = None, **other: Any) -> Shared:
    return stack.enter_context(Shared(rules or LinkRules(), **other).served())


def visitor(stack: ExitStack, browser: Browser, url: str) -> ChatPage:
    """Opens the page in a new browser context."""
    return ChatPage(stack.enter_context(browser.new_context()).new_page()).open(url)


def ask(chat: ChatPage, text: str, answer: str) -> None:
    chat.ask(text)
    expect(chat.log).to_contain_text(answer)
    expect(chat.send).to_be_visible()


def toast(chat: ChatPage, sentence: str) -> None:
    expect(chat.page.locator(".linly-toast").last).to_contain_text(sentence)


@pytest.mark.browser
def test_replies_are_counted_by_browser(browser: Browser, stack: ExitStack) -> None:
    here = shared(stack, LinkRules(messages=2))
    chat = visitor(stack, browser, here.link)
    ask(chat, "one", "base heard: one")
    chat.new_chat.click()  # does not reset the count
    expect(chat.log).not_to_contain_text("one")
    ask(chat, "two", "base heard: two")
    chat.page.reload()
    expect(chat.log).to_contain_text("base heard: two")  # nor does a reload
    chat.ask("precious words")
    toast(chat, "This link allows 2 replies for each visitor, and you have used them all")
    expect(chat.message).to_have_value("precious words")
    expect(chat.log).not_to_contain_text("precious words")
    friend = visitor(stack, browser, here.link)
    ask(friend, "mine", "base heard: mine")
    owner = visitor(stack, browser, here.own)
    for number in range(3):
        ask(owner, f"own {number}", f"base heard: own {number}")
    assert (here.public.visitors, here.public.replies) == (2, 3)


@pytest.mark.browser
def test_only_the_adapters_of_the_link_are_offered(browser: Browser, stack: ExitStack) -> None:
    here = shared(stack, LinkRules(adapters=("base", "pirate")))
    chat = visitor(stack, browser, here.link)
    expect(chat.page.locator("#status")).to_contain_text("fake-base")
    only = ["Base model (fake-base)", "● pirate: Talks like a pirate"]
    assert chat.offered() == only
    chat.page.get_by_role("button", name="Compare", exact=True).click()
    assert chat.offered("Rival 1") == ["–", *only]
    # The page's source does not contain the adapter's name, except in its own class names.
    assert "linly" not in re.sub(r"linly([-:]|[A-Z])", "", chat.page.content())
    owner = visitor(stack, browser, here.own)
    expect(owner.page.locator("#status")).to_contain_text("fake-base")
    assert len(owner.offered()) == 4


@pytest.mark.browser
def test_a_link_without_the_base_begins_with_an_adapter(browser: Browser, stack: ExitStack) -> None:
    """The base was selected, which is not allowed, so no message could be sent."""
    here = shared(stack, LinkRules(adapters=("pirate",)))
    chat = visitor(stack, browser, here.link)
    expect(chat.page.get_by_label("Adapter", exact=True)).to_have_value(re.compile("● pirate"))
    ask(chat, "hello", "pirate heard: hello")


def begin(caller: Caller, text: str, adapter: str, engine: FakeEngine) -> None:
    """Asks a question, and waits for the reply."""
    before = len(engine.emitted)
    assert shown_message(caller.send(text, adapter=adapter)) == ""
    until(lambda: len(engine.emitted) > before and not engine.status().running)


def until(condition: Any) -> None:
    while not condition():
        time.sleep(0.02)


FORBIDDEN = "This link does not offer linly"


def test_forged_requests_cannot_use_other_adapters(stack: ExitStack) -> None:
    here = shared(stack, LinkRules(adapters=("pirate",)))
    with Caller(here.link) as caller:
        assert shown_message(caller.send("hello", adapter="linly")).startswith(FORBIDDEN)
        begin(caller, "hello", "pirate", here.engine)
        rivals = [{"adapter": name, "preset": ""} for name in ("pirate", "linly", "-", "-")]
        pirate = caller.form_with(adapter="pirate")
        compared = caller.call("compare", text="who?", rivals=rivals, form=pirate)
        assert shown_message(compared).startswith(FORBIDDEN)
        linly = caller.form_with(adapter="linly")
        assert shown_message(caller.call("regenerate", form=linly)).startswith(FORBIDDEN)
        exported = caller.export("json").text
        # An imported chat in which another adapter has replied.
        forged = exported.replace('"pirate"', '"linly"').replace('"done"', '"stopped"')
        adopted = caller.import_text(forged)
        assert shown_message(adopted).startswith("linly no longer exists")
        caller.form["loaded_chat"] = adopted.json()["loaded_chat"]
        again = caller.export("json").json()["chats"][0]
        assert "linly" in json.dumps(again)
        question, reply = (message["id"] for message in again["messages"])
        form = caller.form_with(adapter="linly")
        for kind, values in (
            ("again", {"id": reply}),
            ("continue", {"id": reply, "form": form}),
            ("regenerate", {"id": reply, "form": form}),
            ("edit", {"id": question, "text": "other", "form": form}),
        ):
            # Another run checks the digest first, and the file has another adapter's.
            answer = shown_message(caller.call(kind, **values))
            assert answer.startswith((FORBIDDEN, "The adapter linly has changed")), kind
        begin(caller, "and now?", "pirate", here.engine)
    requests = [*here.engine.requests, *here.engine.read]
    assert {request.adapter.name for request in requests if request.adapter} == {"pirate"}
    assert all(request.adapter for request in requests)


def test_the_api_is_closed_through_a_link_with_limits(stack: ExitStack) -> None:
    question = {"model": "fake-base", "messages": [{"role": "user", "content": "hi"}]}
    for rules in (LinkRules(messages=5), LinkRules(adapters=("pirate",))):
        here = shared(stack, rules)
        answer = httpx.post(f"{here.link}/v1/chat/completions", json=question)
        assert answer.status_code == 403
        assert "A link with limits does not serve the API" in answer.json()["error"]["message"]
        assert httpx.get(f"{here.link}/v1/models").status_code == 403
        assert httpx.post(f"{here.own}/v1/chat/completions", json=question).status_code == 200
    here = shared(stack, LinkRules(hours=1))
    assert httpx.post(f"{here.link}/v1/chat/completions", json=question).status_code == 200


def ended(url: str) -> bool:
    """Whether the link has ended, for all kinds of paths."""
    paths = ("/", "/health", "/v1/models", "/config", "/page/chat.js", "/gradio_api/queue/join")
    answers = [httpx.get(f"{url}{path}") for path in paths]
    assert len({answer.status_code for answer in answers}) == 1 or answers[0].status_code == 200
    gone = answers[0].status_code == 410
    assert not gone or "This link has ended" in answers[0].text
    return gone


def words(prompt: str, request: EngineRequest) -> list[str]:
    return [f"w{number} " for number in range(40)]


@pytest.mark.browser
@pytest.mark.parametrize("revoked", [True, False])
def test_the_end_of_the_link(browser: Browser, stack: ExitStack, revoked: bool) -> None:
    """The link's visitors are refused, also those with an open page; local visitors are not."""
    here = shared(stack, LinkRules(hours=2), engine=FakeEngine(words, ticking=True))
    guest = visitor(stack, browser, here.link)
    owner = visitor(stack, browser, here.own)
    for chat in (guest, owner):
        chat.ask("go on")
        until(lambda: here.engine.status().running)
    while len(here.engine.emitted) < 2:
        here.engine.tick()
        time.sleep(0.02)
    expect(owner.log).to_contain_text("w0")
    assert not ended(here.link)
    if revoked:
        owner.settings()
        owner.page.get_by_role("button", name="Revoke the link").click()
        expect(owner.page.locator("#link")).to_have_text(re.compile("The link has ended"))
        expect(owner.page.get_by_role("button", name="Revoke the link")).to_be_hidden()
        assert here.tunnels_closed == 1
    else:
        here.now += 2 * HOUR
    assert ended(here.link)
    assert not ended(here.own)
    here.engine.tick(80)
    expect(owner.log).to_contain_text("w39")
    expect(owner.send).to_be_visible()
    # The guest's page receives no more events, and checks by itself.
    expect(guest.page.locator("body")).to_contain_text("This link has ended", timeout=60_000)


def test_a_stream_of_the_api_ends_with_the_link(stack: ExitStack) -> None:
    """A stream that had begun before the link's end went on."""
    more = threading.Event()

    def script(prompt: str, request: EngineRequest) -> Iterator[str]:
        yield "one "
        more.wait(20)
        yield "two"

    here = shared(stack, LinkRules(hours=2), engine=FakeEngine(script))  # type: ignore[arg-type]
    body = {"model": "fake-base", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with (
        httpx.stream("POST", f"{here.own}/v1/chat/completions", json=body) as mine,
        httpx.stream("POST", f"{here.link}/v1/chat/completions", json=body) as theirs,
    ):
        here.now += 2 * HOUR
        more.set()
        received = "".join(theirs.iter_lines())
        assert "one" in received
        assert "two" not in received
        assert "two" in "".join(mine.iter_lines())


def panel(page: Page) -> str:
    page.get_by_role("button", name="Settings").click()
    expect(page.locator("#link a")).to_be_visible()
    return page.locator("#link").inner_text()


@pytest.mark.browser
def test_settings_panel_shows_the_link(browser: Browser, stack: ExitStack) -> None:
    rules = LinkRules(hours=3, messages=5, adapters=("base", "pirate"))
    here = shared(stack, rules, passphrase="abcd-efgh-jkmn")
    here.now += 0.5 * HOUR
    with Caller(here.link) as caller:
        begin(caller, "hello", "", here.engine)
    owner = visitor(stack, browser, here.own)
    shown = panel(owner.page)
    for line in (
        ADDRESS, "Passphrase: abcd-efgh-jkmn", "1 visitors, 1 replies", "Ends in 2.5 hours",
        "At most 5 replies a visitor", "Adapters: base, pirate",
    ):  # fmt: skip
        assert line in shown
    expect(owner.page.locator("#link a")).to_have_attribute("href", ADDRESS)
    with Caller(here.link) as caller:
        begin(caller, "hello", "pirate", here.engine)
    expect(owner.page.locator("#link")).to_contain_text("2 visitors, 2 replies")
    here.now += HOUR
    expect(owner.page.locator("#link")).to_contain_text("Ends in 1.5 hours")


# Draws an SVG with one pixel for each module, and returns which are dark.
MODULES = """async (svg) => {
  const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
  const copy = svg.cloneNode(true);
  copy.setAttribute('width', width);
  copy.setAttribute('height', height);
  const image = new Image();
  const text = new XMLSerializer().serializeToString(copy);
  image.src = 'data:image/svg+xml,' + encodeURIComponent(text);
  await image.decode();
  const canvas = Object.assign(document.createElement('canvas'), {width, height});
  const drawing = canvas.getContext('2d');
  drawing.drawImage(image, 0, 0);
  const {data} = drawing.getImageData(0, 0, width, height);
  return {width, height, dark: Array.from({length: width * height}, (_, i) => data[4 * i] < 128)};
}"""


@pytest.mark.browser
def test_the_qr_code_is_that_of_the_address(browser: Browser, stack: ExitStack) -> None:
    """Compares each drawn module with the expected code."""
    here = shared(stack)
    owner = visitor(stack, browser, here.own)
    panel(owner.page)
    drawn = owner.page.locator("#link svg").evaluate(MODULES)
    width = drawn["width"]
    expected = segno.make(ADDRESS, error="m")
    border = 4
    modules = [bool(module) for row in expected.matrix_iter(border=border) for module in row]
    scale = width // (expected.symbol_size(border=border)[0])
    picked = [
        drawn["dark"][y * width + x]
        for y in range(scale // 2, drawn["height"], scale)
        for x in range(scale // 2, width, scale)
    ]
    assert picked == modules
    assert any(modules)


@pytest.mark.browser
def test_guests_see_nothing_of_the_link_and_cannot_end_it(
    browser: Browser, stack: ExitStack
) -> None:
    here = shared(stack, passphrase="abcd-efgh-jkmn")
    guest = visitor(stack, browser, here.link)
    expect(guest.page.locator("#status")).to_contain_text("fake-base")
    guest.settings()
    expect(guest.page.get_by_role("textbox", name="System prompt")).to_be_visible()
    expect(guest.page.get_by_role("button", name="Revoke the link")).to_have_count(0)
    assert "abcd-efgh-jkmn" not in guest.page.content()
    owner = visitor(stack, browser, here.own)
    panel(owner.page)
    with Caller(here.link) as caller, Caller(here.own) as local:
        answer = caller.call("revoke")
        assert answer.status_code == 400
        assert "abcd-efgh-jkmn" not in answer.text
        # A guest stays a guest with the id of a local visitor's tab.
        caller.tab = local.tab
        caller.call("revoke")
        caller.client.cookies = local.client.cookies
        caller.call("revoke")
        assert not here.public.closed
        local.call("revoke")
        assert here.public.closed


def test_guests_cannot_fill_the_disk(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports and prompts had no limit for guests who deleted their cookie."""
    monkeypatch.setattr(limits, "MAX_STORED_CHARS", 1000)
    here = shared(stack, LinkRules())
    messages = [{"role": "user", "content": "x" * 350}]
    text = json.dumps({"messages": messages})
    for _ in ("anna", "mei"):
        with Caller(here.link) as caller:
            assert shown_message(caller.import_text(text)) == ""
    with Caller(here.link) as caller:
        assert shown_message(caller.import_text(text)).startswith(
            "The visitors of this link have used up its storage"
        )

        def save(name: str, message: str) -> str:
            return shown_message(caller.call("save_snippet", name=name, message=message))

        # Text that is refused for another reason does not count.
        for _ in range(5):
            assert save("", "x" * 100).startswith("A name must have")
        assert "have used up its storage" in save("name", "x" * 500)
        assert save("name", "x" * 100) == ""
    with Caller(here.own) as owner:
        for _ in range(4):
            assert shown_message(owner.import_text(text)) == ""


def test_a_link_revoked_while_the_tunnel_opens_is_closed() -> None:
    """The tunnel was opened afterwards, and stayed open."""
    closed: list[bool] = []
    link = PublicLink(LinkRules(hours=1), lambda: closed.append(True))
    link.revoke()
    link.opened(ADDRESS)
    assert link.closed
    assert len(closed) == 2


def test_a_link_without_limits_counts_visitors_and_replies() -> None:
    link = PublicLink(LinkRules(), lambda: None)
    link.check("anna", ["pirate"] * 9)
    link.add_replies("anna", 9)
    assert (link.visitors, link.replies) == (1, 9)
    link.revoke()
    with pytest.raises(LinkLimitError, match="has ended"):
        link.check("anna", [""])
