"""Settings and runs as JSON, and back.

Reading is lenient, so that a chat of an older or newer version can be opened: what is unknown is
ignored, what is missing or wrong is as by default. `strict` refuses what is wrong, for files that
come from outside.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, TypeVar, get_type_hints

from model.types import MAX_BIASES, FinishReason, RequestError, Sampling
from web.chats.store.models import ChatSettings, GenerationRun

MAX_INTEGER = 2**63
MAX_TEXT = 2_000_000  # bytes of one message
MAX_SETTING = 100_000  # characters of a text that comes from outside, as a system prompt
MAX_CACHED = 10_000  # characters of a text that is decoded once; longer ones would fill the memory
NO_SAMPLING, NO_SETTINGS = Sampling(), ChatSettings()
NO_RUNS = "[]"  # of messages that people wrote
NO_RUN = GenerationRun(NO_SETTINGS, "", "")

Record = TypeVar("Record", Sampling, ChatSettings, GenerationRun)


def settings_value(settings: ChatSettings) -> dict[str, Any]:
    """What `json.dumps` takes."""
    return {**vars(settings), "sampling": sampling_value(settings.sampling)}


def sampling_value(sampling: Sampling) -> dict[str, Any]:
    """What `json.dumps` takes."""
    return {**vars(sampling)}


def run_value(run: GenerationRun) -> dict[str, Any]:
    """What `json.dumps` takes. (`dataclasses.asdict` copies each value deeply: that took half of
    the time of an import.)"""
    reason = run.reason.value if run.reason else None
    return {**vars(run), "settings": settings_value(run.settings), "reason": reason}


def read_settings(value: object, strict: bool = False) -> ChatSettings:
    """Settings from JSON's values.

    Raises:
        RequestError: only if `strict`: something is wrong.
    """
    return _read(NO_SETTINGS, value, strict)


def read_sampling(value: object, strict: bool = False) -> Sampling:
    """Sampling from JSON's values.

    Raises:
        RequestError: only if `strict`: something is wrong.
    """
    return _read(NO_SAMPLING, value, strict)


def read_run(value: object, strict: bool = False) -> GenerationRun:
    """A run from JSON's values.

    Raises:
        RequestError: only if `strict`: something is wrong.
    """
    return _read(NO_RUN, value, strict)


def settings_text(settings: ChatSettings) -> str:
    """Settings as the store keeps them."""
    return json.dumps(settings_value(settings))


def sampling_text(sampling: Sampling) -> str:
    """Sampling as the store keeps it."""
    return json.dumps(sampling_value(sampling))


def runs_text(runs: Iterable[GenerationRun]) -> str:
    """Runs as the store keeps them. Each is encoded by itself, as all other threads wait for that:
    those of an imported reply may hold many long system prompts."""
    return f"[{', '.join(json.dumps(run_value(run)) for run in runs)}]"


def settings_from(text: str) -> ChatSettings:
    """What `settings_text` wrote, in this version or another."""
    return _cached_settings(text) if len(text) <= MAX_CACHED else read_settings(_loads(text))


@lru_cache(maxsize=1024)
def _cached_settings(text: str) -> ChatSettings:
    return read_settings(_loads(text))


def sampling_from(text: str) -> Sampling:
    """What `sampling_text` wrote, in this version or another."""
    return read_sampling(_loads(text))


def runs_from(text: str) -> tuple[GenerationRun, ...]:
    """What `runs_text` wrote, in this version or another."""
    if text == NO_RUNS:
        return ()
    return _cached_runs(text) if len(text) <= MAX_CACHED else _runs(text)


@lru_cache(maxsize=4096)  # a chat is read anew whenever something happens in it
def _cached_runs(text: str) -> tuple[GenerationRun, ...]:
    return _runs(text)


def _runs(text: str) -> tuple[GenerationRun, ...]:
    values = _loads(text)
    return tuple(read_run(value) for value in values) if isinstance(values, list) else ()


def sanitize_text(text: str) -> str:
    """Text that can be encoded and kept: halves of characters are joined, or become "�", and so
    does NUL, which PostgreSQL does not know."""
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.replace("\0", "�") if "\0" in text else text


def check_length(text: str) -> None:
    """That a text is not too long to be kept.

    Raises:
        RequestError: it is.
    """
    # The number of characters first: to encode many more of them would take long. Halves of
    # characters are counted as they will be kept.
    if len(text) > MAX_TEXT or len(text.encode(errors="replace")) > MAX_TEXT:
        raise RequestError(
            f"The text is longer than {MAX_TEXT // 1_000_000} MB", "Shorten it, or split it."
        )


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
    changes: dict[str, Any] = {}
    for name, reader, default in FIELDS[type(empty)]:
        found = value.get(name, default)
        # Most settings of most replies are the defaults: there is nothing to check, then.
        if found is default or (type(found) is type(default) and found == default):
            continue
        try:
            changes[name] = reader(found, strict)
        except (TypeError, ValueError, OverflowError) as error:
            if strict:
                raise RequestError(f"The setting {name} is not as it should be") from error
    return _changed(empty, changes, strict)


def _changed(empty: Record, changes: dict[str, Any], strict: bool) -> Record:
    """With all the changes, or with those that are allowed."""
    kind = type(empty)
    try:
        return kind(**{**vars(empty), **changes})
    except RequestError:
        if strict:
            raise
    for name, value in changes.items():
        try:
            empty = kind(**{**vars(empty), name: value})
        except RequestError:
            continue
    return empty


def _text(value: object, strict: bool) -> str:
    if not isinstance(value, str):
        raise TypeError
    if strict and len(value) > MAX_SETTING:
        raise ValueError
    return sanitize_text(value)


def _texts(value: object, strict: bool) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError
    return tuple(_text(text, strict) for text in value)


def _numbered(value: object, strict: bool) -> tuple[tuple[int, float], ...]:
    """Pairs of a token id and a number."""
    if not isinstance(value, list | tuple) or len(value) > MAX_BIASES:
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
    if not 0 <= value < MAX_INTEGER:
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
FIELDS: dict[object, list[tuple[str, Callable[[object, bool], Any], object]]] = {
    type(empty): [
        (name, READERS[hint], getattr(empty, name))
        for name, hint in get_type_hints(type(empty)).items()
    ]
    for empty in (NO_SAMPLING, NO_SETTINGS, NO_RUN)
}
