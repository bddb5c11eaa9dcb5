"""The scheduler: order of admission, bounds, preemption, and removal of what has finished."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from model.engine.scheduler import Scheduler
from model.engine.sequence import Sequence


@dataclass
class StubRequest:
    id: str
    adapter: str | None = None
    adapter_scale: float = 1.0


@dataclass
class StubSequence:
    """The part of a sequence that the scheduler uses."""

    request: StubRequest
    prefilling: bool = True
    finished: bool = False
    prefill_only: bool = False

    @property
    def prefix_key(self) -> tuple[str, float]:
        return self.request.adapter or "", self.request.adapter_scale


def stub(name: str, adapter: str | None = None, adapter_scale: float = 1.0, **state: bool) -> Any:
    return StubSequence(StubRequest(name, adapter, adapter_scale), **state)


def finish(sequence: Any) -> None:
    sequence.finished = True


def names(sequences: Iterable[Sequence]) -> str:
    return "".join(s.request.id for s in sequences)


def scheduler(letters: str, max_running: int = 2) -> Scheduler:
    """A scheduler with a waiting sequence for each letter."""
    made = Scheduler(max_running)
    made.add([stub(letter) for letter in letters])
    return made


def next_prefills(made: Scheduler, count: int) -> str:
    """The names of the sequences whose prompts are computed in the next `count` turns."""
    return names(s for s in [made.next_prefill() for _ in range(count)] if s)


def test_first_come_first_served_within_the_bound() -> None:
    made = scheduler("abcd")
    made.admit()
    assert (names(made.running), names(made.waiting)) == ("ab", "cd")


@pytest.mark.parametrize(("max_running", "running"), [(1, "a"), (3, "abc"), (9, "abcd")])
def test_no_more_than_max_running_are_admitted(max_running: int, running: str) -> None:
    made = scheduler("abcd", max_running)
    for _ in range(3):
        made.admit()
    assert names(made.running) == running


def test_new_sequences_wait_behind_those_that_wait() -> None:
    made = scheduler("abc")
    made.admit()
    made.add([stub("d")])
    assert names(made.waiting) == "cd"


def test_place_of_a_finished_sequence_goes_to_the_next() -> None:
    made = scheduler("abcd")
    made.admit()
    finish(made.running[0])
    made.remove_finished()
    made.admit()
    assert (names(made.running), names(made.waiting)) == ("bc", "d")


def test_sequence_that_finishes_in_the_queue_never_runs() -> None:
    made = scheduler("abcd")
    made.admit()
    finish(made.waiting[0])
    made.remove_finished()
    finish(made.running[0])
    finish(made.running[1])
    made.remove_finished()
    made.admit()
    assert names(made.running) == "d"


def test_prompts_are_computed_in_the_order_of_arrival() -> None:
    made = scheduler("ab")
    made.admit()
    first = made.next_prefill()
    assert first is made.running[0]
    first.prefilling = False
    assert made.next_prefill() is made.running[1]
    made.running[1].prefilling = False
    assert made.next_prefill() is None


def test_nothing_is_prefilled_before_it_is_admitted() -> None:
    made = scheduler("ab")
    assert made.next_prefill() is None
    assert made.decoding() == []


def test_finished_sequences_neither_prefill_nor_decode() -> None:
    made = Scheduler(4)
    made.add([stub("a", finished=True), stub("b", prefilling=False, finished=True)])
    made.admit()
    assert made.next_prefill() is None
    assert made.decoding() == []


def test_sequences_decode_after_their_prompt_is_computed() -> None:
    made = Scheduler(4)
    made.add([stub("a"), stub("b", prefilling=False), stub("c", prefilling=False)])
    made.admit()
    assert names(made.decoding()) == "bc"


def test_sequences_with_the_same_adapter_and_scale_decode_side_by_side() -> None:
    made = Scheduler(9)
    made.add(
        [
            stub("a", "y", prefilling=False),
            stub("b", None, prefilling=False),
            stub("c", "x", 0.5, prefilling=False),
            stub("d", "y", prefilling=False),
            stub("e", "x", 1.0, prefilling=False),
            stub("f", None, prefilling=False),
            stub("g", "x", 0.5, prefilling=False),
        ]
    )
    made.admit()
    keys = [(s.request.adapter, s.request.adapter_scale) for s in made.decoding()]
    changes = sum(a != b for a, b in itertools.pairwise(keys))
    assert len(keys) == 7
    assert changes == len(set(keys)) - 1


def test_decoding_does_not_reorder_the_running_sequences() -> None:
    made = Scheduler(4)
    made.add([stub("a", "y", prefilling=False), stub("b", "x", prefilling=False)])
    made.admit()
    made.decoding()
    assert names(made.running) == "ab"


def test_sequences_are_found_by_id_in_every_queue() -> None:
    made = scheduler("abcd")
    made.admit()
    assert sorted(names(made.find(["a", "d", "unknown"]))) == ["a", "d"]
    assert made.find([]) == []


def test_all_sequences_of_one_id_are_found() -> None:
    made = scheduler("aba", max_running=1)
    made.admit()
    assert names(made.find(["a"])) == "aa"


def test_scheduler_is_true_while_there_is_work() -> None:
    made = scheduler("")
    assert not made
    made.add([stub("a")])
    assert made
    made.admit()
    assert made
    finish(made.running[0])
    made.remove_finished()
    assert not made


def test_prefills_take_turns() -> None:
    made = scheduler("abc", max_running=3)
    made.admit()
    assert next_prefills(made, 5) == "abcab"


def test_new_prompt_waits_for_one_turn_of_each_other() -> None:
    made = scheduler("ab", max_running=9)
    made.admit()
    assert next_prefills(made, 1) == "a"
    made.add([stub("c")])
    made.admit()
    assert next_prefills(made, 4) == "bacb"


def test_sequence_without_memory_blocks_those_behind_it() -> None:
    made = scheduler("abc", max_running=3)
    made.admit(lambda s: s.request.id != "b")
    assert (names(made.running), names(made.waiting)) == ("a", "bc")
    assert made.waiting_reason == "memory"
    made.admit()
    assert (names(made.running), made.waiting_reason) == ("abc", None)


def test_waiting_reason_is_slots_when_all_are_taken() -> None:
    made = scheduler("abc")
    made.admit(lambda s: True)
    assert made.waiting_reason == "slots"


def test_memory_is_not_requested_without_a_slot() -> None:
    made = scheduler("abc", max_running=1)
    started: list[str] = []

    def start(sequence: Sequence) -> bool:
        started.append(sequence.request.id)
        return True

    made.admit(start)
    made.admit(start)
    assert started == ["a"]


def test_preempted_sequence_is_the_last_and_comes_back_first() -> None:
    made = scheduler("abcd", max_running=3)
    made.admit()
    finish(made.running[2])
    assert names(s for s in [made.preempt()] if s) == "b"
    assert (names(made.running), names(made.waiting)) == ("ac", "bd")


def test_single_sequence_is_not_preempted() -> None:
    made = scheduler("a")
    assert made.preempt() is None
    made.admit()
    assert made.preempt() is None
    assert names(made.running) == "a"


def test_after_a_preemption_nothing_is_admitted_until_a_sequence_ends() -> None:
    """Its memory is for the running sequences: a new one would have to be preempted again."""
    made = scheduler("abcd", max_running=3)
    made.admit()
    made.preempt()
    made.admit()
    assert (names(made.running), made.waiting_reason) == ("ab", "memory")
    finish(made.running[0])
    made.remove_finished()
    made.admit()
    assert names(made.running) == "bcd"


def test_preempted_sequence_has_no_prefill_turn() -> None:
    made = scheduler("ab")
    made.admit()
    made.preempt()
    assert next_prefills(made, 2) == "aa"
    finish(made.running[0])
    made.remove_finished()
    made.admit()
    assert next_prefills(made, 2) == "bb"


def test_removing_finished_returns_those_that_ran() -> None:
    made = scheduler("abc")
    made.admit()
    finish(made.running[1])
    finish(made.waiting[0])
    assert names(made.remove_finished()) == "b"
    assert next_prefills(made, 2) == "aa"


# Prefill-only sequences


def with_prefill_only(replies: str, prefill_only: str, max_running: int = 2) -> Scheduler:
    made = scheduler(replies, max_running)
    made.add([stub(letter, prefill_only=True) for letter in prefill_only])
    made.admit()
    return made


def test_prefill_only_runs_one_at_a_time_in_order() -> None:
    made = with_prefill_only("", "xy")
    assert (names(made.running), names(made.prefill_only)) == ("x", "y")
    assert made.next_prefill() is made.running[0]
    finish(made.running[0])
    assert names(made.remove_finished()) == "x"
    made.admit()
    assert (names(made.running), names(made.prefill_only)) == ("y", "")


def test_prefill_only_waits_while_a_reply_runs() -> None:
    made = with_prefill_only("a", "x", max_running=9)
    assert (names(made.running), names(made.prefill_only)) == ("a", "x")
    assert made.preempt_prefill_only() is None
    finish(made.running[0])
    made.remove_finished()
    made.admit()
    assert names(made.running) == "x"


def test_prefill_only_is_preempted_by_a_reply_and_comes_back_first() -> None:
    made = with_prefill_only("", "xy", max_running=1)
    assert made.preempt_prefill_only() is None
    made.add([stub("a")])
    assert names(s for s in [made.preempt_prefill_only()] if s) == "x"
    made.admit()
    assert (names(made.running), names(made.waiting), names(made.prefill_only)) == ("a", "", "xy")
    assert next_prefills(made, 2) == "aa"


def test_prefill_only_is_not_counted() -> None:
    made = with_prefill_only("", "xy")
    assert (made.running_replies, len(made.waiting), made.waiting_reason) == (0, 0, None)
    assert made


def test_prefill_only_is_found_and_removed_as_replies_are() -> None:
    made = with_prefill_only("a", "xy")
    assert names(made.find(["x"])) == "x"
    finish(made.prefill_only[0])
    assert made.remove_finished() == []
    assert names(made.all_sequences) == "ya"
