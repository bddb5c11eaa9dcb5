"""What a training tells while it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.translations import LocalizedText, load_text


@dataclass(frozen=True)
class Stage:
    """It has come to `name`: data, base, training, saving, checking or evaluating."""

    name: str


@dataclass(frozen=True)
class Note:
    """Something to know, in a sentence."""

    text: LocalizedText


@dataclass(frozen=True)
class Step:
    """`step` of `steps` is done. `loss` is a token's mean since the last one, in nats."""

    step: int
    steps: int
    epoch: float
    loss: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class HeldOut:
    """The loss on the held-out chats behind `step`; at step 0 it is the base's."""

    step: int
    loss: float


@dataclass(frozen=True)
class TrainingEnded:
    """The adapter is in `folder`. `text` says how good it is; `table` has an evaluation's rows."""

    folder: str
    text: LocalizedText
    table: str = ""


@dataclass(frozen=True)
class TrainingFailed:
    """The training ends without an adapter, for the reason `text`."""

    text: LocalizedText


Event = Stage | Note | Step | HeldOut | TrainingEnded | TrainingFailed
Report = Callable[[Event], None]
KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Stage, Note, Step, HeldOut, TrainingEnded, TrainingFailed)
}


def to_line(event: Event) -> str:
    """As one line of JSON."""
    values = dict(vars(event))
    if "text" in values:
        values["text"] = values["text"].dump()
    return json.dumps({"event": type(event).__name__, **values}, ensure_ascii=False)


def from_line(line: str) -> Event | None:
    """What `to_line` has made; None for any other line."""
    try:
        values = json.loads(line)
        kind = KINDS[values.pop("event")]
        if "text" in values:
            values["text"] = load_text(values["text"])
        event: Event = kind(**values)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    return event
