"""Events that a training run reports, and their form as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.translations import LocalizedText, load_text


@dataclass(frozen=True)
class Stage:
    """The run enters a stage: data, base, measuring, training, saving, checking or evaluating."""

    name: str


@dataclass(frozen=True)
class Note:
    """A note for the user."""

    text: LocalizedText


@dataclass(frozen=True)
class Step:
    """`step` of `steps` is done. `loss` is the mean over its tokens, in nats."""

    step: int
    steps: int
    epoch: float
    loss: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class HeldOut:
    """The loss on the held-out chats after `step`; at step 0 it is the base's."""

    step: int
    loss: float


@dataclass(frozen=True)
class TrainingEnded:
    """The adapter is in `folder`. `text` has its losses; `table` is an evaluation's table."""

    folder: str
    text: LocalizedText
    table: str = ""


@dataclass(frozen=True)
class TrainingFailed:
    """The training ends without an adapter, for the reason `text`."""

    text: LocalizedText


Event = Stage | Note | Step | HeldOut | TrainingEnded | TrainingFailed
EventHandler = Callable[[Event], None]
EVENT_TYPES: dict[str, type[Any]] = {  # by the name that programs read
    "Stage": Stage,
    "Note": Note,
    "Step": Step,
    "HeldOut": HeldOut,
    "Ended": TrainingEnded,
    "Failed": TrainingFailed,
}
EVENT_NAMES = {kind: name for name, kind in EVENT_TYPES.items()}


def to_line(event: Event) -> str:
    """The event as one line of JSON."""
    fields = dict(vars(event))
    if "text" in fields:
        fields["text"] = fields["text"].dump()
    return json.dumps({"event": EVENT_NAMES[type(event)], **fields}, ensure_ascii=False)


def from_line(line: str) -> Event | None:
    """The event that `to_line` has written; None for any other line."""
    try:
        fields = json.loads(line)
        kind = EVENT_TYPES[fields.pop("event")]
        if "text" in fields:
            fields["text"] = load_text(fields["text"])
        event: Event = kind(**fields)
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
    return event
