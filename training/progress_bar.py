"""What a person at the terminal sees of a training: a bar, or lines where none can be redrawn."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from training.events import Event, HeldOut, Note, Stage, Step, TrainingEnded, to_line

STAGES = {
    "data": "Reading the data …",
    "base": "Loading the base …",
    "measuring": "Measuring the base …",
    "training": "Training …",
    "saving": "Saving …",
    "checking": "Trying what was saved …",
    "evaluating": "Asking base and adapter …",
}
LINES = 10  # told of a training where there is no bar
BAR = "{percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {postfix}"


class Terminal:
    """Shows events on stderr, and the end on stdout."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._redraws = sys.stderr.isatty()
        self._tenth = -1

    def __call__(self, event: Event) -> None:
        match event:
            case Stage(name):
                self._close()
                self._say(STAGES[name])
            case Note(text):
                sentence = str(text)
                self._say(f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}.")
            case HeldOut(step, loss):
                self._say(
                    f"Held-out loss {f'at step {step}' if step else 'of the base'}: {loss:.3f}"
                )
            case Step():
                self._step(event)
            case TrainingEnded(text=text, table=table):
                self._close()
                print(f"{table}\n{text}" if table else text, flush=True)

    def ending(self) -> None:
        """Somebody has pressed Ctrl-C. By the system alone: a signal's handler may interrupt a
        print."""
        os.write(2, b"\nEnding after this step. Ctrl-C again ends at once.\n")

    def _step(self, step: Step) -> None:
        said = (
            f"epoch {step.epoch:.1f}, loss {step.loss:.3f}, {step.tokens_per_second:.0f} tokens/s, "
            f"{duration(step.seconds_left)} left"
        )
        if self._redraws:
            self._draw(step, said)
        elif (tenth := step.step * LINES // step.steps) != self._tenth:
            self._tenth = tenth
            self._say(f"Step {step.step} of {step.steps}: {said}")

    def _draw(self, step: Step, said: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=step.steps, bar_format=BAR, leave=False, dynamic_ncols=True)
        self._bar.set_postfix_str(said, refresh=False)
        self._bar.update(step.step - self._bar.n)

    def _say(self, line: str) -> None:
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """Leave the terminal as it was, whatever has happened."""
        self._close()


def print_line(event: Event) -> None:
    """One line of JSON on stdout. Nobody reads it any more: as if Ctrl-C had been pressed."""
    try:
        print(to_line(event), flush=True)
    except BrokenPipeError:
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGINT)


def duration(seconds: float) -> str:
    """As in 45 s, 3:05 min or 2:10 h."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    large, small = divmod(whole if whole < 3600 else whole // 60, 60)
    return f"{large}:{small:02} {'min' if whole < 3600 else 'h'}"
