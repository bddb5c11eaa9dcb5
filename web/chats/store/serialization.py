"""Settings and runs as JSON, and back.

Reading is lenient, so that a chat of an older or newer version can be opened: unknown fields are
ignored, and a missing or invalid field has its default. `strict` refuses invalid fields, for files
that come from outside.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from model.sampling import Sampling
from web.chats.store.models import ChatSettings, GenerationRun
from web.chats.store.record_schema import RecordSchema

MAX_CACHED = 10_000  # characters of JSON whose decoding is cached; longer texts would fill memory
NO_RUNS = "[]"  # of messages that users wrote
SAMPLING = RecordSchema(Sampling())
SETTINGS = RecordSchema(ChatSettings(), {"adapter_scale": "scale"}, {"sampling": SAMPLING})
RUN = RecordSchema(GenerationRun(ChatSettings(), "", ""), nested={"settings": SETTINGS})


def settings_value(settings: ChatSettings) -> dict[str, Any]:
    """Returns settings as values for `json.dumps`."""
    return {
        "adapter": settings.adapter or "",
        "scale": settings.adapter_scale,
        "template": settings.template or "",
        "system": settings.system,
        "sampling": sampling_value(settings.sampling),
    }


def sampling_value(sampling: Sampling) -> dict[str, Any]:
    """Returns sampling as values for `json.dumps`."""
    return {**vars(sampling)}


def run_value(run: GenerationRun) -> dict[str, Any]:
    """Returns a run as values for `json.dumps`.

    `dataclasses.asdict` copies each value deeply: that took half of the time of an import.
    """
    reason = run.reason.value if run.reason else None
    return {**vars(run), "settings": settings_value(run.settings), "reason": reason}


def read_settings(value: object, strict: bool = False) -> ChatSettings:
    """Returns settings from values of JSON.

    Raises:
        RequestError: only if `strict`: something is invalid.
    """
    return SETTINGS.read(value, strict)


def read_sampling(value: object, strict: bool = False) -> Sampling:
    """Returns sampling from values of JSON.

    Raises:
        RequestError: only if `strict`: something is invalid.
    """
    return SAMPLING.read(value, strict)


def read_run(value: object, strict: bool = False) -> GenerationRun:
    """Returns a run from values of JSON.

    Raises:
        RequestError: only if `strict`: something is invalid.
    """
    return RUN.read(value, strict)


def settings_text(settings: ChatSettings) -> str:
    """Returns settings as the store keeps them."""
    return json.dumps(settings_value(settings))


def sampling_text(sampling: Sampling) -> str:
    """Returns sampling as the store keeps it."""
    return json.dumps(sampling_value(sampling))


def runs_text(runs: Iterable[GenerationRun]) -> str:
    """Returns runs as the store keeps them.

    Each run is encoded by itself, because all other threads wait for a call of `json.dumps`, and
    the runs of an imported reply may have many long system prompts.
    """
    return f"[{', '.join(json.dumps(run_value(run)) for run in runs)}]"


def settings_from(text: str) -> ChatSettings:
    """Returns settings from `settings_text` of this version or another."""
    return _cached_settings(text) if len(text) <= MAX_CACHED else read_settings(_loads(text))


@lru_cache(maxsize=1024)
def _cached_settings(text: str) -> ChatSettings:
    return read_settings(_loads(text))


def sampling_from(text: str) -> Sampling:
    """Returns sampling from `sampling_text` of this version or another."""
    return read_sampling(_loads(text))


def runs_from(text: str) -> tuple[GenerationRun, ...]:
    """Returns runs from `runs_text` of this version or another."""
    if text == NO_RUNS:
        return ()
    return _cached_runs(text) if len(text) <= MAX_CACHED else _runs(text)


@lru_cache(maxsize=4096)  # a chat is read anew whenever something happens in it
def _cached_runs(text: str) -> tuple[GenerationRun, ...]:
    return _runs(text)


def _runs(text: str) -> tuple[GenerationRun, ...]:
    values = _loads(text)
    return tuple(read_run(value) for value in values) if isinstance(values, list) else ()


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
