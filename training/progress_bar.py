"""Shows a training run on the terminal: a progress bar, or lines if the output is no terminal."""

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
    "checking": "Checking the saved adapter …",
    "evaluating": "Comparing the replies of base and adapter …",
}
STATUS_LINES = 10  # per training, without a bar
BAR = "{percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} {postfix}"


class ProgressBar:
    """Shows events on stderr, and the result on stdout."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._is_terminal = sys.stderr.isatty()
        self._tenth = -1

    def __call__(self, event: Event) -> None:
        match event:
            case Stage(name):
                self.close()
                self._print(STAGES[name])
            case Note(text):
                sentence = str(text)
                self._print(f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}.")
            case HeldOut(step, loss):
                place = f"at step {step}" if step else "of the base"
                self._print(f"Held-out loss {place}: {loss:.3f}")
            case Step():
                self._show_step(event)
            case TrainingEnded(text=text, table=table):
                self.close()
                print(f"{table}\n{text}" if table else text, flush=True)

    def announce_stop(self) -> None:
        """Acknowledges Ctrl-C. Not with `print`, which a signal handler may have interrupted."""
        os.write(2, b"\nEnding after this step. Ctrl-C again ends at once.\n")

    def close(self) -> None:
        """Removes the bar, so that the terminal is as it was."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show_step(self, step: Step) -> None:
        status = (
            f"epoch {step.epoch:.1f}, loss {step.loss:.3f}, {step.tokens_per_second:.0f} tokens/s, "
            f"{format_duration(step.seconds_left)} left"
        )
        if self._is_terminal:
            self._draw(step, status)
        elif (tenth := step.step * STATUS_LINES // step.steps) != self._tenth:
            self._tenth = tenth
            self._print(f"Step {step.step} of {step.steps}: {status}")

    def _draw(self, step: Step, status: str) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(total=step.steps, bar_format=BAR, leave=False, dynamic_ncols=True)
        self._bar.set_postfix_str(status, refresh=False)
        self._bar.update(step.step - self._bar.n)

    def _print(self, line: str) -> None:
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)


def print_json(event: Event) -> None:
    """Prints the event as a line of JSON; if the reader is gone, acts as if Ctrl-C was pressed."""
    try:
        print(to_line(event), flush=True)
    except BrokenPipeError:
        # Python flushes stdout again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        signal.raise_signal(signal.SIGINT)


def format_duration(seconds: float) -> str:
    """For example 45 s, 3:05 min or 2:10 h."""
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    large, small = divmod(total if total < 3600 else total // 60, 60)
    return f"{large}:{small:02} {'min' if total < 3600 else 'h'}"
