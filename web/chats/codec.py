"""Settings and runs as JSON, and back.

Reading is lenient, so that a chat of an older or newer version can be opened: what is unknown is
ignored, what is missing or wrong is as by default. `strict` refuses what is wrong, for files that
come from outside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields, replace
from functools import lru_cache
from typing import Any, TypeVar, get_type_hints

from model.types import MOST_BIASES, FinishReason, RequestError, Sampling
from web.chats.records import ChatSettings, Run

MOST_INTEGER = 2**63
HINTS: dict[object, dict[str, Any]] = {
    record: get_type_hints(record) for record in (Sampling, ChatSettings, Run)
}

Record = TypeVar("Record", Sampling, ChatSettings, Run)


def settings_value(settings: ChatSettings) -> dict[str, Any]:
    """What `json.dumps` takes."""
    return asdict(settings)


def sampling_value(sampling: Sampling) -> dict[str, Any]:
    """What `json.dumps` takes."""
    return asdict(sampling)


def run_value(run: Run) -> dict[str, Any]:
    """What `json.dumps` takes."""
    return {**asdict(run), "reason": run.reason.value if run.reason else None}


def read_settings(value: object, strict: bool = False) -> ChatSettings:
    """Settings from JSON's values.

    Raises:
        RequestError: only if `strict`: something is wrong.
    """
    return _read(ChatSettings(), value, strict)


def read_sampling(value: object, strict: bool = False) -> Sampling:
    """Sampling from JSON's values.

    Raises:
        RequestError: only if `strict`: something is wrong.
    """
    return _read(Sampling(), value, strict)


def read_run(value: object, strict: bool = False) -> Run:
    """A run from JSON's values.

    Raises:
        RequestError: only if `strict`: something is wrong.
    """
    return _read(Run(ChatSettings(), "", ""), value, strict)


def settings_text(settings: ChatSettings) -> str:
    """Settings as the store keeps them."""
    return json.dumps(settings_value(settings))


def sampling_text(sampling: Sampling) -> str:
    """Sampling as the store keeps it."""
    return json.dumps(sampling_value(sampling))


def runs_text(runs: Iterable[Run]) -> str:
    """Runs as the store keeps them."""
    return json.dumps([run_value(run) for run in runs])


@lru_cache(maxsize=1024)
def settings_from(text: str) -> ChatSettings:
    """What `settings_text` wrote, in this version or another."""
    return read_settings(_loads(text))


def sampling_from(text: str) -> Sampling:
    """What `sampling_text` wrote, in this version or another."""
    return read_sampling(_loads(text))


@lru_cache(maxsize=4096)  # a chat is read anew whenever something happens in it
def runs_from(text: str) -> tuple[Run, ...]:
    """What `runs_text` wrote, in this version or another."""
    values = _loads(text)
    return tuple(read_run(value) for value in values) if isinstance(values, list) else ()


def clean(text: str) -> str:
    """Text that can be encoded and kept: halves of characters are joined, or become "�", and so
    does NUL, which PostgreSQL does not know."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "�")


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read(empty: Record, value: object, strict: bool) -> Record:
    """`empty` with what `value` says."""
    if not isinstance(value, dict):
        if strict:
            raise RequestError("Settings are not as they should be")
        return empty
    hints = HINTS[type(empty)]
    changes: dict[str, Any] = {}
    for name in (field.name for field in fields(empty)):
        try:
            if name in value:
                changes[name] = READERS[hints[name]](value[name], strict)
        except (TypeError, ValueError, OverflowError) as error:
            if strict:
                raise RequestError(f"The setting {name} is not as it should be") from error
    return _changed(empty, changes, strict)


def _changed(empty: Record, changes: dict[str, Any], strict: bool) -> Record:
    """With all the changes, or with those that are allowed."""
    try:
        return replace(empty, **changes)
    except RequestError:
        if strict:
            raise
    for name, value in changes.items():
        try:
            empty = replace(empty, **{name: value})
        except RequestError:
            continue
    return empty


def _text(value: object, _: bool) -> str:
    if not isinstance(value, str):
        raise TypeError
    return clean(value)


def _texts(value: object, strict: bool) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_text(text, strict) for text in value)


def _numbered(value: object, strict: bool) -> tuple[tuple[int, float], ...]:
    """Pairs of a token id and a number."""
    if not isinstance(value, list | tuple) or len(value) > MOST_BIASES:
        raise TypeError
    pairs = [tuple(pair) for pair in value]
    return tuple((_integer(token, strict), _number(number, strict)) for token, number in pairs)


def _number(value: object, _: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    if not math.isfinite(value):
        raise ValueError
    return float(value)


def _integer(value: object, _: bool) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError
    if not 0 <= value < MOST_INTEGER:
        raise ValueError
    return value


def _truth(value: object, _: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _reason(value: object, strict: bool) -> FinishReason:
    return FinishReason(_text(value, strict))


def _or_none(reader: Callable[[object, bool], Any]) -> Callable[[object, bool], Any]:
    return lambda value, strict: None if value is None else reader(value, strict)


READERS: dict[object, Callable[[object, bool], Any]] = {  # by what a field is declared to be
    str: _text,
    int: _integer,
    float: _number,
    bool: _truth,
    int | None: _or_none(_integer),
    tuple[str, ...]: _texts,
    tuple[tuple[int, float], ...]: _numbered,
    FinishReason | None: _or_none(_reason),
    Sampling: read_sampling,
    ChatSettings: read_settings,
}
