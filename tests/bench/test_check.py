"""`--check` tells the same model from another one."""

from __future__ import annotations

import math

import pytest

from bench.check import check, distance
from bench.peers.base import Question


class Server:
    """Tells log probabilities that are off by some nats, on the base and on adapters."""

    def __init__(self, name: str, base: float, adapters: float) -> None:
        self.name = name
        self._off = (base, adapters)

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass

    def first_token(self, question: Question, count: int) -> dict[str, float]:
        off = self._off[question.adapter is not None]
        return {"a": -1 + off, "b": -2 - off}


def test_the_worse_of_base_and_adapters_counts() -> None:
    ours = Server("ours", 0, 0)
    found = check([Server("right", 0.1, 0.05), ours, Server("wrong", 0.1, 2)])
    assert found == pytest.approx({"right": 0.1, "wrong": 2})


def test_only_what_both_name_is_compared() -> None:
    assert distance({"a": -1, "b": -2}, {"a": -1.5, "c": 0}) == 0.5
    assert math.isinf(distance({"a": -1}, {"b": -1}))
