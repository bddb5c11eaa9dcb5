"""The measurement of the page: visitors without a browser, many tabs, pauses, and the table."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bench.page import PARTS, _names
from bench.page_load.figures import FIGURES, Bar, bars, table
from bench.page_load.late import LateFile, longest, usual
from bench.page_load.pauses import Sizes, act_all
from bench.page_load.probe import probe
from bench.page_load.replies import reply_bytes
from bench.page_load.sampled_app import sample
from bench.page_load.tabs import close_all, open_more, open_tabs, steps
from bench.peers.base import PeerError
from bench.visitor import ReplyTiming, Visitor, http_client
from tests.fake import FakeEngine, echo, fake_manager
from tests.web.app_server import serving


@pytest.fixture
def address() -> Iterator[str]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager) as url:
        yield url


def run(measure: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    async def with_client() -> None:
        async with http_client() as http:
            await measure(http)

    asyncio.run(with_client())


def silent(line: str) -> None:
    """Nobody reads it."""


def test_a_visitor_asks_and_follows(address: str) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        visitor = await Visitor.open(address, http, {"temperature": 0})
        for question in ("first", "second"):
            await visitor.new_chat()
            heard = await visitor.ask(question)
            assert (heard.text, heard.tokens) == (f"base heard: {question} ", 3)
            assert heard.received > len(heard.text)
        await visitor.close()

    run(ask)


def test_a_visitor_comes_back_with_its_cookie(address: str) -> None:
    async def come_back(http: httpx.AsyncClient) -> None:
        first = await Visitor.open(address, http)
        await first.ask("remember")
        chat = first.log["chat"]
        await first.close()
        again = await Visitor.open(address, http, cookie=first.cookie, chat=chat)
        await again.wait(lambda: again.log["chat"] == chat)
        assert [again.messages[key]["role"] for key in again.order] == ["user", "assistant"]
        other = await Visitor.open(address, http)
        assert other.sidebar["chats"]["order"] == []
        await close_all([again, other])

    run(come_back)


def test_what_a_visitor_receives_is_counted_with_its_frame_headers(address: str) -> None:
    async def count(http: httpx.AsyncClient) -> None:
        visitor = await Visitor.open(address, http)
        before, sizes, take = visitor.received, [], visitor._take

        def noted(events: dict[str, object], size: int) -> None:
            sizes.append(size)
            take(events, size)

        visitor._take = noted  # type: ignore[method-assign, assignment]
        heard = await visitor.ask("count")
        assert heard.received > sum(sizes) > 0  # the last frames may have come since
        assert visitor.received - before >= heard.received
        await visitor.close()

    run(count)


def test_a_lost_stream_ends_the_waiting(address: str) -> None:
    async def lose(http: httpx.AsyncClient) -> None:
        visitor = await Visitor.open(address, http)
        await visitor.close()
        with pytest.raises(PeerError, match="stream ended"):
            await visitor.wait(lambda: False)

    run(lose)


def test_a_refused_action_is_told(address: str) -> None:
    async def refuse(http: httpx.AsyncClient) -> None:
        visitor = await Visitor.open(address, http)
        with pytest.raises(PeerError, match="404"):
            await visitor.act("no_such_thing")
        await visitor.close()

    run(refuse)


def test_open_tabs_are_drawn_and_answered(address: str) -> None:
    figures = asyncio.run(open_tabs(address, [2, 4], silent))
    assert figures["open_tabs"] == 4


def test_open_tabs_end_with_those_that_are_let_in(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.chats.tab_sessions.MAX_TABS", 3)
    said: list[str] = []
    assert asyncio.run(open_tabs(address, [2, 4], said.append))["open_tabs"] == 2
    assert "stream ended" in said[-1]


def test_tabs_are_of_visitors_of_their_own(address: str) -> None:
    async def open_some(http: httpx.AsyncClient) -> None:
        tabs: list[Visitor] = []
        await open_more(address, http, tabs, 3)
        assert all(tab.drawn and tab.connected for tab in tabs)
        assert len({tab.cookie for tab in tabs}) == 3
        await close_all(tabs)
        assert tabs == []

    run(open_some)


@pytest.mark.parametrize(
    ("most", "expected"),
    [(2_000, [500, 1_000, 2_000]), (700, [500, 700]), (500, [500]), (3, [3])],
)
def test_the_steps_end_with_the_most(most: int, expected: list[int]) -> None:
    assert steps(most) == expected


def test_everything_that_may_pause_the_loop_is_done(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SETTLE_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(f"bench.page_load.pauses.{name}", 0.0)
    spans = asyncio.run(act_all(address, Sizes(chats=2, turns=3, long=5, comparing=2), 0))
    assert {f"pause_{name}" for name in spans} <= FIGURES.keys()
    ordered = [time for span in spans.values() for time in span]
    assert ordered == sorted(ordered)


def test_the_bytes_of_a_reply_are_told_over_its_text(address: str) -> None:
    figures = asyncio.run(reply_bytes(address, 2, silent))
    assert figures["bytes_ratio"] > 1
    assert figures["reply_tokens"] > 0


def test_the_longest_is_that_which_was_late_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "late"
    lines = [[10.0, 0.5], [11.0, 0.2], [12.5, 0.9], [20.0, 3.0]]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "[21.0, ")
    assert longest(path, 10.5, 12.0) == 0.9  # it had begun before the end
    assert longest(path, 10.5, 11.5) == 0.2
    assert longest(path, 13.0, 14.0) == 0.0
    assert usual(path) == 0.7


def test_a_sampled_loop_tells_how_late_it_was(tmp_path: Path) -> None:
    path = tmp_path / "late"

    async def block() -> None:
        sample(asyncio.get_running_loop(), file)
        while not path.read_text():
            await asyncio.sleep(0)
            threading.Event().wait(0.05)

    with LateFile(path) as file:
        asyncio.run(block())
    assert longest(path, 0.0, float("inf")) > 0


def test_the_probe_notes_each_answer(address: str, tmp_path: Path) -> None:
    class Ended(threading.Event):
        """Set when it has been waited for three times."""

        waits = 0

        def wait(self, timeout: float | None = None) -> bool:
            self.waits += 1
            if self.waits == 3:
                self.set()
            return self.is_set()

    with LateFile(tmp_path / "late") as file:
        probe(address, file, Ended())
    assert len((tmp_path / "late").read_text().splitlines()) == 3


def test_a_ratio_is_of_bytes() -> None:
    timing = ReplyTiming("海浪", 0.5, 1.5, 2, (3, 3), 60)
    assert timing.bytes_ratio == 10
    assert timing.updates_per_second == 2


@pytest.mark.parametrize(
    ("bar", "verdicts"),
    [
        (Bar(500, 2_000), {499: "missed", 500: "met", 2_000: "aim"}),
        (Bar(50, 20), {51: "missed", 50: "met", 20: "aim"}),
    ],
)
def test_a_bar_knows_which_way_is_better(bar: Bar, verdicts: dict[float, str]) -> None:
    assert {value: bar.verdict(value) for value in verdicts} == verdicts


def test_every_figure_has_its_line() -> None:
    figures = dict.fromkeys(FIGURES, 1.5)
    lines = table(figures).splitlines()
    assert len(lines) == len(FIGURES)
    assert all("1.5" in line for line in lines)
    barred = [key for key, figure in FIGURES.items() if figure.bar]
    assert list(bars(figures)) == barred
    assert sum("at least" in line for line in lines) == len(barred)


def test_parts_are_chosen_by_name() -> None:
    assert _names("tabs,crowd") == ("tabs", "crowd")
    assert all(name in PARTS for name in _names(",".join(PARTS)))
    with pytest.raises(Exception, match="is none of"):
        _names("tabs,nothing")
