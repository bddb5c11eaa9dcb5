"""What is told of each step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from training.events import Event, HeldOut, Step
from training.interrupt import StopRequest
from training.progress_callback import DivergedError, ProgressCallback


def state(step: int, epoch: float) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=40, epoch=epoch)


def test_speed_and_time_left_are_those_since_the_start() -> None:
    """Also of a training that went on from a checkpoint, here step 10 of 40."""
    told: list[Event] = []
    times = iter([100.0, 105.0])
    telling = ProgressCallback(told.append, StopRequest(), 2000, clock=lambda: next(times))
    telling.on_train_begin(None, state(10, 1.0), None)
    telling.on_log(None, state(15, 1.5), None, logs={"loss": 2.5})
    telling.on_log(None, state(15, 1.5), None, logs={"eval_loss": 2.5})
    assert told == [Step(15, 40, 1.5, 2.5, tokens_per_second=200.0, seconds_left=25.0)]


def test_measurements_are_told_while_it_trains() -> None:
    told: list[Event] = []
    telling = ProgressCallback(told.append, StopRequest(), 2000)
    telling.on_evaluate(None, state(0, 0.0), None, metrics={"eval_loss": 9.0})
    telling.on_train_begin(None, state(0, 0.0), None)
    telling.on_evaluate(None, state(5, 0.5), None, metrics={"eval_loss": 3.0})
    telling.on_train_end(None, state(40, 4.0), None)
    telling.on_evaluate(None, state(40, 4.0), None, metrics={"eval_loss": 1.0})
    assert told == [HeldOut(5, 3.0)]


def test_a_loss_that_is_no_number_ends_it() -> None:
    telling = ProgressCallback(lambda _: None, StopRequest(), 2000)
    telling.on_train_begin(None, state(0, 0.0), None)
    with pytest.raises(DivergedError, match="at step 3 the loss is nan"):
        telling.on_log(None, state(3, 0.1), None, logs={"loss": float("nan")})


def test_it_ends_when_asked_with_a_checkpoint() -> None:
    stop = StopRequest()
    telling = ProgressCallback(lambda _: None, stop, 2000)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    telling.on_step_end(None, state(3, 0.1), control)
    assert not control.should_training_stop
    stop.requested = True
    telling.on_step_end(None, state(4, 0.1), control)
    assert control.should_save
    assert control.should_training_stop
