"""`bench/page.py`: tabs without a browser, many of them, pauses of the loop, and the table."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from bench import page
from bench.common import PeerError
from bench.page import FIGURES, Bar, bars, table
from bench.page_load.many_tabs import (
    measure_open_tabs,
    measure_reply_bytes,
    open_tabs,
    tab_counts,
)
from bench.page_load.pauses import (
    Sizes,
    delay_file,
    longest_delay,
    median_delay,
    probe,
    run_actions,
    sample,
)
from bench.page_load.tab_client import PageReply, TabClient, http_client
from tests.bench.conftest import Refuse, RunAsJson
from tests.fake_engine import FakeEngine, echo, fake_manager
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


def test_tab_asks_and_follows_the_reply(address: str) -> None:
    async def ask(http: httpx.AsyncClient) -> None:
        tab = await TabClient.open(address, http, {"temperature": 0})
        for question in ("first", "second"):
            await tab.new_chat()
            timing = await tab.ask(question)
            assert (timing.text, timing.tokens) == (f"base heard: {question} ", 3)
            assert timing.received > len(timing.text)
        await tab.close()

    run(ask)


def test_tab_shows_its_visitors_chats_by_the_cookie(address: str) -> None:
    async def come_back(http: httpx.AsyncClient) -> None:
        first = await TabClient.open(address, http)
        await first.ask("remember")
        chat = first.log["chat"]
        await first.close()
        again = await TabClient.open(address, http, cookie=first.cookie, chat=chat)
        await again.wait(lambda: again.log["chat"] == chat)
        assert [again.messages[key]["role"] for key in again.order] == ["user", "assistant"]
        other = await TabClient.open(address, http)
        assert other.sidebar["chats"]["order"] == []
        await again.close()
        await other.close()

    run(come_back)


def test_received_bytes_include_frame_headers(address: str) -> None:
    async def count(http: httpx.AsyncClient) -> None:
        tab = await TabClient.open(address, http)
        before, sizes, take = tab.received, [], tab._receive

        def noted(events: dict[str, object], size: int) -> None:
            sizes.append(size)
            take(events, size)

        tab._receive = noted  # type: ignore[method-assign, assignment]
        timing = await tab.ask("count")
        assert timing.received > sum(sizes) > 0  # the last frames may have come since
        assert tab.received - before >= timing.received
        await tab.close()

    run(count)


def test_waiting_ends_with_the_stream(address: str) -> None:
    async def lose(http: httpx.AsyncClient) -> None:
        tab = await TabClient.open(address, http)
        await tab.close()
        with pytest.raises(PeerError, match="stream ended"):
            await tab.wait(lambda: False)

    run(lose)


def test_refused_action_is_an_error(address: str) -> None:
    async def refuse(http: httpx.AsyncClient) -> None:
        tab = await TabClient.open(address, http)
        with pytest.raises(PeerError, match="404"):
            await tab.act("no_such_thing")
        await tab.close()

    run(refuse)


def test_open_tabs_are_drawn_and_answered(address: str) -> None:
    figures = asyncio.run(measure_open_tabs(address, [2, 4]))
    assert figures["open_tabs"] == 4


def test_open_tabs_end_with_the_servers_limit(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("web.chats.tab_sessions.MAX_TABS", 3)
    assert asyncio.run(measure_open_tabs(address, [2, 4]))["open_tabs"] == 2
    assert "stream ended" in capsys.readouterr().err.splitlines()[-1]


def test_tabs_belong_to_different_visitors(address: str) -> None:
    async def open_some() -> None:
        async with open_tabs(address) as opened:
            await opened.open(3)
            assert all(tab.drawn and tab.connected for tab in opened.tabs)
            assert len({tab.cookie for tab in opened.tabs}) == 3
        assert opened.tabs == []

    asyncio.run(open_some())


@pytest.mark.parametrize(
    ("most", "expected"),
    [(2_000, [500, 1_000, 2_000]), (700, [500, 700]), (500, [500]), (3, [3])],
)
def test_numbers_of_tabs_end_with_the_most(most: int, expected: list[int]) -> None:
    assert tab_counts(most) == expected


def test_all_actions_run_one_after_another(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLE_SECONDS", "IDLE_SECONDS"):
        monkeypatch.setattr(f"bench.page_load.pauses.{name}", 0.0)
    spans = asyncio.run(run_actions(address, Sizes(chats=2, turns=3, long=5, comparing=2), 0))
    assert {f"pause_{name}" for name in spans} <= FIGURES.keys()
    ordered = [time for span in spans.values() for time in span]
    assert ordered == sorted(ordered)


def test_bytes_of_a_reply_are_compared_with_its_text(address: str) -> None:
    figures = asyncio.run(measure_reply_bytes(address, 2))
    assert figures["bytes_ratio"] > 1
    assert figures["reply_tokens"] > 0


def test_longest_delay_overlaps_the_time(tmp_path: Path) -> None:
    path = tmp_path / "late"
    lines = [[10.0, 0.5], [11.0, 0.2], [12.5, 0.9], [20.0, 3.0]]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines) + "[21.0, ")
    assert longest_delay(path, 10.5, 12.0) == 0.9  # it had begun before the end
    assert longest_delay(path, 10.5, 11.5) == 0.2
    assert longest_delay(path, 13.0, 14.0) == 0.0
    assert median_delay(path) == 0.7


def test_sampler_records_delays_of_the_loop(tmp_path: Path) -> None:
    path = tmp_path / "late"

    async def block() -> None:
        sample(asyncio.get_running_loop(), file)
        while not path.read_text():
            await asyncio.sleep(0)
            threading.Event().wait(0.05)

    with delay_file(path) as file:
        asyncio.run(block())
    assert longest_delay(path, 0.0, float("inf")) > 0


def test_probe_records_each_answer(address: str) -> None:
    answers: list[float] = []

    def record(seconds: float) -> None:
        answers.append(seconds)
        if len(answers) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        probe(address, record)
    assert all(seconds > 0 for seconds in answers)


def test_ratio_of_a_reply_counts_bytes() -> None:
    timing = PageReply("海浪", 0.5, 1.5, 2, (3, 3), 60)
    assert timing.bytes_ratio == 10
    assert timing.updates_per_second == 2


@pytest.mark.parametrize(
    ("bar", "verdicts"),
    [
        (Bar(500, 2_000), {499: "missed", 500: "met", 2_000: "aim"}),
        (Bar(50, 20), {51: "missed", 50: "met", 20: "aim"}),
    ],
)
def test_bar_knows_which_direction_is_better(bar: Bar, verdicts: dict[float, str]) -> None:
    assert {value: bar.verdict(value) for value in verdicts} == verdicts


def test_table_has_a_line_for_each_figure() -> None:
    figures = dict.fromkeys(FIGURES, 1.5)
    lines = table(figures).splitlines()
    assert len(lines) == len(FIGURES)
    assert all("1.5" in line for line in lines)
    with_bars = [key for key, figure in FIGURES.items() if figure.bar]
    assert list(bars(figures)) == with_bars
    assert sum("at least" in line for line in lines) == len(with_bars)


def test_parts_are_chosen_by_name(
    run_as_json: RunAsJson, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in page.PARTS:
        monkeypatch.setitem(page.PARTS, name, lambda args: {"update_long": args.rounds})
    monkeypatch.setitem(page.PARTS, "crowd", lambda args: {"usable": args.visitors})
    figures = run_as_json(page, "--only", "tabs,crowd", "--rounds", "2")
    assert figures == {"update_long": 2, "usable": 20, "bars": {}}
    assert "there is no part 'nothing'" in refuse(page, "--only", "tabs,nothing")
