"""What is asked, of whom, and what is made of the times."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bench.questions import HEROES, STRIDE, chat_turns, story
from bench.workloads import ALL, PER_ROUND, Workload, warm_up
from tests.bench.fakes import FakePeer

BY_NAME = {workload.name: workload for workload in ALL}


def measure(name: str, peer: FakePeer, round_: int = 0) -> list[float]:
    return BY_NAME[name].measure(peer, round_, 64)


def adapters(peer: FakePeer) -> list[list[int | None]]:
    return [[question.adapter for question in questions] for questions in peer.asked]


def test_one_user_asks_the_base_then_an_adapter() -> None:
    peer = FakePeer()
    assert measure("one", peer) == pytest.approx([100, 100])
    assert adapters(peer) == [[None], [0]]


def test_crowds_ask_at_once() -> None:
    peer = FakePeer()
    for name in ("four", "twelve", "twelve_base", "twelve_adapters"):
        measure(name, peer)
    assert adapters(peer) == [
        [None, 0, 1, 2],
        [None, 0, 1, 2] * 3,
        [None] * 12,
        list(range(12)),
    ]


def test_a_crowds_first_token_is_the_mean() -> None:
    assert measure("four", FakePeer())[1] == pytest.approx(0.5)


def test_a_chat_has_eight_turns_and_carries_the_replies() -> None:
    peer = FakePeer()
    assert measure("chat", peer) == [0.5]
    last = peer.asked[-1][0]
    assert len(peer.asked) == 8
    assert [turn.role for turn in last.turns] == ["user", "assistant"] * 7 + ["user"]
    assert last.turns[-2].content == "reply 7"
    assert not last.exact


def test_questions_of_a_chat_have_about_sixty_words() -> None:
    lengths = [len(text.split()) for text in chat_turns(3)]
    assert len(lengths) == 8
    assert all(55 <= length <= 70 for length in lengths)


def test_nothing_is_asked_twice_in_a_run() -> None:
    """A prompt that a server has in its cache would look as if it had computed it at once."""
    peer = FakePeer()
    warm_up(peer)
    for round_ in range(3):
        for workload in ALL:
            if workload.name not in ("chat", "busy"):
                workload.measure(peer, round_, 64)
    asked = [question.turns[0].content for questions in peer.asked for question in questions]
    warm = sum(map(len, peer.asked[:6]))
    measured = asked[warm:]
    assert len(set(measured)) == len(measured)
    assert not set(measured) & set(asked[:warm])


def test_every_peer_is_asked_the_same() -> None:
    first, second = FakePeer(), FakePeer("hf")
    measure("twelve", first, 2)
    measure("twelve", second, 2)
    assert first.asked == second.asked


def test_workloads_stay_within_their_share_of_the_questions() -> None:
    begins = [(w.first_question, w.first_question + max(w.users, len(w.metrics))) for w in ALL]
    assert all(end <= begin for (_, end), (begin, _) in pairwise(begins))
    assert begins[-1][1] <= PER_ROUND


def test_all_stories_differ() -> None:
    assert len({story(number) for number in range(len(HEROES))}) == len(HEROES)
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
def test_a_peer_is_spared_what_it_cannot(users: int, count: int, suiting: list[str]) -> None:
    peer = FakePeer(users=users, adapters=count)

    def suits(workload: Workload) -> bool:
        return workload.suits(peer)

    assert [workload.name for workload in filter(suits, ALL)] == suiting


def test_warming_up_respects_what_a_peer_can() -> None:
    peer = FakePeer(users=1, adapters=1)
    warm_up(peer)
    assert {len(questions) for questions in peer.asked} == {1}
    assert {None, 0} == {adapter for asked in adapters(peer) for adapter in asked}
