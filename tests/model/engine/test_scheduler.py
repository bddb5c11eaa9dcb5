"""Who runs next: order, bounds, and that nothing is forgotten or kept too long."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import pytest

from model.engine.scheduler import Scheduler
from model.engine.sequence import Sequence


@dataclass
class Wish:
    id: str
    adapter: str | None = None
    adapter_scale: float = 1.0


@dataclass
class Stub:
    """What the scheduler sees of a sequence."""

    request: Wish
    prefilling: bool = True
    finished: bool = False
    prefill_only: bool = False

    @property
    def prefix_key(self) -> tuple[str, float]:
        return self.request.adapter or "", self.request.adapter_scale


def stub(name: str, adapter: str | None = None, scale: float = 1.0, **state: bool) -> Sequence:
    return cast(Sequence, Stub(Wish(name, adapter, scale), **state))


def names(sequences: Iterable[Sequence]) -> str:
    return "".join(s.request.id for s in sequences)


def scheduler(letters: str, most: int = 2) -> Scheduler:
    made = Scheduler(most)
    made.add([stub(letter) for letter in letters])
    return made


def test_first_come_first_served_within_the_bound() -> None:
    made = scheduler("abcd")
    made.admit()
    assert (names(made.running), names(made.waiting)) == ("ab", "cd")


@pytest.mark.parametrize(("most", "running"), [(1, "a"), (3, "abc"), (9, "abcd")])
def test_bound_is_kept(most: int, running: str) -> None:
    made = scheduler("abcd", most)
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
    made.running[0].finished = True
    made.remove_finished()
    made.admit()
    assert (names(made.running), names(made.waiting)) == ("bc", "d")


def test_sequence_that_is_finished_while_it_waits_never_runs() -> None:
    made = scheduler("abcd")
    made.admit()
    made.waiting[0].finished = True
    made.remove_finished()
    made.running[0].finished = made.running[1].finished = True
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


def test_only_those_with_a_whole_prompt_decode() -> None:
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
    changes = sum(one != other for one, other in itertools.pairwise(keys))
    assert len(keys) == 7
    assert changes == len(set(keys)) - 1


def test_deciding_who_decodes_changes_no_order() -> None:
    made = Scheduler(4)
    made.add([stub("a", "y", prefilling=False), stub("b", "x", prefilling=False)])
    made.admit()
    made.decoding()
    assert names(made.running) == "ab"


def test_sequences_are_found_by_id_wherever_they_are() -> None:
    made = scheduler("abcd")
    made.admit()
    assert sorted(names(made.find(["a", "d", "unknown"]))) == ["a", "d"]
    assert made.find([]) == []


def test_all_sequences_of_one_id_are_found() -> None:
    made = scheduler("aba", most=1)
    made.admit()
    assert names(made.find(["a"])) == "aa"


def test_truth_is_whether_there_is_work() -> None:
    made = scheduler("")
    assert not made
    made.add([stub("a")])
    assert made
    made.admit()
    assert made
    made.running[0].finished = True
    made.remove_finished()
    assert not made


def test_prompts_take_turns() -> None:
    made = scheduler("abc", most=3)
    made.admit()
    chosen = [made.next_prefill() for _ in range(5)]
    assert names(s for s in chosen if s) == "abcab"


def test_a_newcomer_waits_for_one_turn_of_each() -> None:
    made = scheduler("ab", most=9)
    made.admit()
    chosen = [made.next_prefill()]
    made.add([stub("c")])
    made.admit()
    chosen += [made.next_prefill() for _ in range(4)]
    assert names(s for s in chosen if s) == "abacb"


def test_who_has_no_memory_yet_holds_up_those_behind() -> None:
    made = scheduler("abc", most=3)
    made.admit(lambda s: s.request.id != "b")
    assert (names(made.running), names(made.waiting)) == ("a", "bc")
    assert made.waiting_reason == "memory"
    made.admit()
    assert (names(made.running), made.waiting_reason) == ("abc", None)


def test_full_slots_are_what_is_waited_for() -> None:
    made = scheduler("abc")
    made.admit(lambda s: True)
    assert made.waiting_reason == "slots"


def test_memory_is_not_asked_for_without_a_slot() -> None:
    made = scheduler("abc", most=1)
    asked: list[str] = []

    def start(sequence: Sequence) -> bool:
        asked.append(sequence.request.id)
        return True

    made.admit(start)
    made.admit(start)
    assert asked == ["a"]


def test_the_last_to_come_gives_way_and_is_the_next_to_come_back() -> None:
    made = scheduler("abcd", most=3)
    made.admit()
    made.running[2].finished = True
    assert names(s for s in [made.preempt()] if s) == "b"
    assert (names(made.running), names(made.waiting)) == ("ac", "bd")


def test_nobody_gives_way_to_nobody() -> None:
    made = scheduler("a")
    assert made.preempt() is None
    made.admit()
    assert made.preempt() is None
    assert names(made.running) == "a"


def test_after_somebody_gave_way_nobody_starts_before_somebody_ends() -> None:
    """The memory that it gave is for those that run: it would have to give way again."""
    made = scheduler("abcd", most=3)
    made.admit()
    made.preempt()
    made.admit()
    assert (names(made.running), made.waiting_reason) == ("ab", "memory")
    made.running[0].finished = True
    made.remove_finished()
    made.admit()
    assert names(made.running) == "bcd"


def test_who_gave_way_has_no_turn() -> None:
    made = scheduler("ab")
    made.admit()
    made.preempt()
    assert [made.next_prefill() for _ in range(2)] == [made.running[0]] * 2
    made.running[0].finished = True
    made.remove_finished()
    made.admit()
    assert names(s for s in [made.next_prefill(), made.next_prefill()] if s) == "bb"


def test_retiring_tells_who_ran_and_keeps_nothing_of_them() -> None:
    made = scheduler("abc")
    made.admit()
    made.running[1].finished = made.waiting[0].finished = True
    assert names(made.remove_finished()) == "b"
    assert names(made._turns) == "a"


# What is only read ahead


def reading(replies: str, prefill_only: str, most: int = 2) -> Scheduler:
    made = scheduler(replies, most)
    made.add([stub(letter, prefill_only=True) for letter in prefill_only])
    made.admit()
    return made


def test_reading_is_one_at_a_time_and_in_order() -> None:
    made = reading("", "xy")
    assert (names(made.running), names(made.prefill_only)) == ("x", "y")
    assert made.next_prefill() is made.running[0]
    made.running[0].finished = True
    assert names(made.remove_finished()) == "x"
    made.admit()
    assert (names(made.running), names(made.prefill_only)) == ("y", "")


def test_nothing_is_read_while_a_reply_runs() -> None:
    made = reading("a", "x", most=9)
    assert (names(made.running), names(made.prefill_only)) == ("a", "x")
    assert made.preempt_prefill_only() is None
    made.running[0].finished = True
    made.remove_finished()
    made.admit()
    assert names(made.running) == "x"


def test_reading_gives_way_to_whoever_comes_and_is_the_next_to_be_read() -> None:
    made = reading("", "xy", most=1)
    assert made.preempt_prefill_only() is None
    made.add([stub("a")])
    assert names(s for s in [made.preempt_prefill_only()] if s) == "x"
    made.admit()
    assert (names(made.running), names(made.waiting), names(made.prefill_only)) == ("a", "", "xy")
    assert names(made._turns) == "a"


def test_reading_counts_for_nobody() -> None:
    made = reading("", "xy")
    assert (made.running_replies, len(made.waiting), made.waiting_reason) == (0, 0, None)
    assert made


def test_what_is_to_be_read_is_found_and_retired_as_all_else() -> None:
    made = reading("a", "xy")
    assert names(made.find(["x"])) == "x"
    made.prefill_only[0].finished = True
    assert made.remove_finished() == []
    assert names(made.all_sequences) == "ya"
