"""Events of the Trainer callback, its stop on request, and its check of the loss."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from training.events import Event, HeldOut, Step
from training.interrupt import StopRequest
from training.progress_callback import DivergedError, ProgressCallback


def state(step: int, epoch: float) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, max_steps=40, epoch=epoch)


def test_speed_and_time_left_count_from_the_start_of_this_run() -> None:
    """Here the run continues from a checkpoint, at step 10 of 40."""
    events: list[Event] = []
    times = iter([100.0, 105.0])
    callback = ProgressCallback(events.append, StopRequest(), 2000, clock=lambda: next(times))
    callback.on_train_begin(None, state(10, 1.0), None)
    callback.on_log(None, state(15, 1.5), None, logs={"loss": 2.5})
    callback.on_log(None, state(15, 1.5), None, logs={"eval_loss": 2.5})
    assert events == [Step(15, 40, 1.5, 2.5, tokens_per_second=200.0, seconds_left=25.0)]


def test_evaluations_are_reported_only_during_training() -> None:
    events: list[Event] = []
    callback = ProgressCallback(events.append, StopRequest(), 2000)
    callback.on_evaluate(None, state(0, 0.0), None, metrics={"eval_loss": 9.0})
    callback.on_train_begin(None, state(0, 0.0), None)
    callback.on_evaluate(None, state(5, 0.5), None, metrics={"eval_loss": 3.0})
    callback.on_train_end(None, state(40, 4.0), None)
    callback.on_evaluate(None, state(40, 4.0), None, metrics={"eval_loss": 1.0})
    assert events == [HeldOut(5, 3.0)]


def test_a_loss_that_is_not_a_number_ends_the_training() -> None:
    callback = ProgressCallback(lambda _: None, StopRequest(), 2000)
    callback.on_train_begin(None, state(0, 0.0), None)
    with pytest.raises(DivergedError, match="at step 3 the loss is nan"):
        callback.on_log(None, state(3, 0.1), None, logs={"loss": float("nan")})


def test_a_stop_request_ends_the_training_with_a_checkpoint() -> None:
    stop = StopRequest()
    callback = ProgressCallback(lambda _: None, stop, 2000)
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    callback.on_step_end(None, state(3, 0.1), control)
    assert not control.should_training_stop
    stop.requested = True
    callback.on_step_end(None, state(4, 0.1), control)
    assert control.should_save
    assert control.should_training_stop
