"""Trainer callback that reports progress, stops on request, and detects divergence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from model.errors import LinlyError
from training.events import EventHandler, HeldOut, Step
from training.interrupt import StopRequest


class DivergedError(LinlyError):
    """The loss is not a finite number any more."""

    code = "diverged"


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Reports each step and each evaluation during training, and stops it when `stop` requests it.

    Args:
        tokens_per_epoch: the tokens of all examples that are learned.
    """

    def __init__(
        self, on_event: EventHandler, stop: StopRequest, tokens_per_epoch: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._on_event = on_event
        self._stop = stop
        self._tokens_per_epoch = tokens_per_epoch
        self._clock = clock
        self._training = False
        self._began = 0.0
        self._first_step = 0
        self._first_epoch = 0.0

    def on_train_begin(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        self._training = True
        self._began = self._clock()
        self._first_step, self._first_epoch = state.global_step, state.epoch or 0.0

    def on_step_end(self, _args: Any, _state: Any, control: TrainerControl, **_: Any) -> None:
        if self._stop.requested:
            control.should_save = True
            control.should_training_stop = True

    def on_log(
        self, _args: Any, state: TrainerState, _control: Any, logs: dict[str, float], **_: Any
    ) -> None:
        if "loss" in logs:
            self._report_step(state, logs["loss"])

    def on_evaluate(
        self, _args: Any, state: TrainerState, _control: Any, metrics: dict[str, float], **_: Any
    ) -> None:
        if self._training:
            self._on_event(HeldOut(state.global_step, metrics["eval_loss"]))

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._training = False

    def _report_step(self, state: TrainerState, loss: float) -> None:
        if not math.isfinite(loss):
            raise DivergedError("training_diverged", step=state.global_step, loss=loss)
        seconds = max(self._clock() - self._began, 1e-9)
        epoch = state.epoch or 0.0
        done = state.global_step - self._first_step
        seconds_left = (state.max_steps - state.global_step) * seconds / max(done, 1)
        speed = (epoch - self._first_epoch) * self._tokens_per_epoch / seconds
        self._on_event(Step(state.global_step, state.max_steps, epoch, loss, speed, seconds_left))
