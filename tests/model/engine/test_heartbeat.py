"""The heartbeat of the engine's loop."""

from __future__ import annotations

from model.engine.heartbeat import Heartbeat


def test_idle_time_does_not_count_as_a_step() -> None:
    now = 0.0
    heartbeat = Heartbeat(lambda: now)
    now = 100.0
    heartbeat.wake()
    assert heartbeat.age == 0
    assert heartbeat.slowest_step is None
    now = 103.0
    assert heartbeat.age == 3
    heartbeat.beat()
    now = 104.0
    heartbeat.beat()
    assert (heartbeat.age, heartbeat.slowest_step) == (0, 3)
