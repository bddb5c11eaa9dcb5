"""What the workloads send to whom, the fixtures' adapters, and the report of the figures."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bench.serving.fixtures import WEIGHTS, make_adapters
from bench.serving.report import Results, table, to_json
from bench.serving.workloads import (
    ALL,
    DELAY,
    HEROES,
    PER_ROUND,
    SPEED,
    STRIDE,
    Metric,
    chat_prompts,
    unique_prompt,
    warm_up,
)
from model.config.settings import CHECKOUT
from tests.bench.conftest import FakePeer

BY_NAME = {workload.name: workload for workload in ALL}
LIGHTHOUSE = CHECKOUT / "adapters" / "lighthouse"
FAST = Metric("one/base", "1 user, base", SPEED)
SOON = Metric("four/first", "4 users: first token", DELAY)


def measure_workload(name: str, peer: FakePeer, round_number: int = 0) -> list[float]:
    return BY_NAME[name].measure(peer, round_number, 64)


def adapters(peer: FakePeer) -> list[list[int | None]]:
    return [[question.adapter for question in questions] for questions in peer.requests]


def test_single_user_asks_the_base_then_an_adapter() -> None:
    peer = FakePeer()
    assert measure_workload("one", peer) == pytest.approx([100, 100])
    assert adapters(peer) == [[None], [0]]


def test_crowds_ask_at_once_and_report_the_mean_first_token() -> None:
    peer = FakePeer()
    delays = [
        measure_workload(name, peer)[1]
        for name in ("four", "twelve", "twelve_base", "twelve_adapters")
    ]
    assert adapters(peer) == [
        [None, 0, 1, 2],
        [None, 0, 1, 2] * 3,
        [None] * 12,
        list(range(12)),
    ]
    assert delays == pytest.approx([0.5] * 4)


def test_chat_has_eight_turns_with_the_replies() -> None:
    peer = FakePeer()
    assert measure_workload("chat", peer) == [0.5]
    last = peer.requests[-1][0]
    assert len(peer.requests) == 8
    assert [turn.role for turn in last.turns] == ["user", "assistant"] * 7 + ["user"]
    assert last.turns[-2].content == "reply 7"
    assert not last.exact


def test_prompts_of_a_chat_have_about_sixty_words() -> None:
    lengths = [len(text.split()) for text in chat_prompts(3)]
    assert len(lengths) == 8
    assert all(55 <= length <= 70 for length in lengths)


def test_no_prompt_comes_twice_in_a_run() -> None:
    """A server that has a prompt in its cache would seem to have computed it at once."""
    peer = FakePeer()
    warm_up(peer)
    for round_number in range(3):
        for workload in ALL:
            if workload.name not in ("chat", "busy"):
                workload.measure(peer, round_number, 64)
    prompts = [question.turns[0].content for questions in peer.requests for question in questions]
    warm = sum(map(len, peer.requests[:6]))
    measured = prompts[warm:]
    assert len(set(measured)) == len(measured)
    assert not set(measured) & set(prompts[:warm])


def test_every_peer_gets_the_same_questions() -> None:
    first, second = FakePeer(), FakePeer("hf")
    measure_workload("twelve", first, 2)
    measure_workload("twelve", second, 2)
    assert first.requests == second.requests


def test_workloads_use_separate_prompts() -> None:
    ranges = [(w.first_prompt, w.first_prompt + max(w.users, len(w.metrics))) for w in ALL]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(ranges))
    assert ranges[-1][1] <= PER_ROUND


def test_all_prompts_differ() -> None:
    assert len({unique_prompt(number) for number in range(len(HEROES))}) == len(HEROES)
    assert STRIDE % 2
    assert STRIDE % 3


@pytest.mark.parametrize(
    ("users", "count", "suiting"),
    [
        (12, 12, [w.name for w in ALL]),
        (12, 3, ["one", "four", "twelve", "twelve_base", "chat", "busy"]),
        (1, 1, ["one", "chat", "busy"]),
    ],
)
def test_workloads_suit_a_peer_by_its_limits(users: int, count: int, suiting: list[str]) -> None:
    peer = FakePeer(users=users, adapters=count)
    assert [workload.name for workload in ALL if workload.suits(peer)] == suiting


def test_warm_up_respects_a_peers_limits() -> None:
    peer = FakePeer(users=1, adapters=1)
    warm_up(peer)
    assert {len(questions) for questions in peer.requests} == {1}
    assert {None, 0} == {adapter for asked in adapters(peer) for adapter in asked}


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    assert make_adapters(LIGHTHOUSE, folder, 12)[:2] == ["lighthouse-00", "lighthouse-01"]
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_twelve_adapters_differ_and_the_first_is_the_shipped_one(variants: Path) -> None:
    digests = {digest(file) for file in variants.glob(f"*/{WEIGHTS}")}
    assert len(digests) == 12
    assert digest(variants / "lighthouse-00" / WEIGHTS) == digest(LIGHTHOUSE / WEIGHTS)


def test_adapters_keep_names_shapes_and_dtypes_and_nearly_the_values(variants: Path) -> None:
    shipped, noisy = (
        load_file(LIGHTHOUSE / WEIGHTS),
        load_file(variants / "lighthouse-11" / WEIGHTS),
    )
    assert shipped.keys() == noisy.keys()
    for name, weight in shipped.items():
        other = noisy[name]
        assert (other.shape, other.dtype) == (weight.shape, weight.dtype)
        assert 0 < (other.float() - weight.float()).std() < 0.2 * weight.float().std()


def test_adapters_are_the_same_each_time_and_made_once(variants: Path, tmp_path: Path) -> None:
    make_adapters(LIGHTHOUSE, tmp_path, 3)
    file = variants / "lighthouse-02" / WEIGHTS
    assert digest(tmp_path / "lighthouse-02" / WEIGHTS) == digest(file)
    before = file.stat().st_mtime_ns
    make_adapters(LIGHTHOUSE, variants, 12)
    assert file.stat().st_mtime_ns == before


def results(costs: tuple[float, ...] = ()) -> Results:
    found = Results(["ours", "hf", "vllm"])
    for value in (300.0, 100.0, 200.0):
        found.add(FAST.key, "ours", value)
    for value in (40.0, 60.0):
        found.add(FAST.key, "hf", value)
    found.add(SOON.key, "ours", 0.2)
    found.add(SOON.key, "hf", 0.05)
    for key, value in zip(
        ("twelve_base/together", "twelve_adapters/together"), costs, strict=False
    ):
        found.add(key, "ours", value)
    return found


def test_medians_are_of_all_rounds() -> None:
    assert results().median(FAST.key, "ours") == 200
    assert results().median(FAST.key, "hf") == 50
    assert results().median(FAST.key, "vllm") is None


def test_a_ratio_above_one_means_this_program_is_better_in_either_unit() -> None:
    assert results().ratio(FAST, "hf") == 4
    assert results().ratio(SOON, "hf") == 0.25
    assert results().ratio(FAST, "vllm") is None


def test_table_has_a_line_for_each_metric_and_aligned_columns() -> None:
    head, first, second = table(results(), [FAST, SOON]).splitlines()
    assert head.split() == ["ours", "hf", "vllm", "vs", "hf", "vs", "vllm"]
    assert first.split()[-6:] == ["tokens/s", "200", "50.0", "-", "4.00x", "-"]
    assert second.split()[-6:] == ["s", "0.200", "0.050", "-", "0.25x", "-"]
    for column, word in enumerate(("ours", "hf", "vllm")):
        value = first.split()[-5:][column]
        assert head.index(word) + len(word) == first.index(value, first.index("/s")) + len(value)


def test_table_shows_the_cost_of_adapters_if_both_sides_were_measured() -> None:
    assert results((100,)).adapters_cost("ours") is None
    assert results((100, 90)).adapters_cost("ours") == 0.9
    assert table(results((100, 90)), [FAST]).splitlines()[-1].split()[-3:] == ["0.900", "-", "-"]


def test_json_has_every_sample() -> None:
    report = json.loads(json.dumps(to_json(results(), [FAST])))
    [metric] = report["metrics"]
    assert metric["samples"] == {"ours": [300, 100, 200], "hf": [40, 60]}
    assert metric["medians"] == {"ours": 200, "hf": 50}
    assert metric["times_as_good"] == {"hf": 4}


@pytest.mark.parametrize(
    ("value", "shown"), [(123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123")]
)
def test_figures_keep_three_digits(value: float, shown: str) -> None:
    found = Results(["ours"])
    found.add(FAST.key, "ours", value)
    assert table(found, [FAST]).split()[-1] == shown
