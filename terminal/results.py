"""What stands on an output line: a row's own fields with its reply, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from model.types import Delta
from terminal.jsonl import BatchRow

# Rows that bring fields of these names get new values: so replies can be asked for once more.
OURS = ("reply", "finish_reason", "prompt_tokens", "completion_tokens", "adapter")


def reply_record(row: BatchRow, text: str, last: Delta, adapter: str | None) -> dict[str, Any]:
    reason, stats = last.finish_reason, last.stats
    counts = (stats.prompt_tokens, stats.completion_tokens) if stats else (0, 0)
    told = (text, reason.value if reason else None, *counts, adapter)
    return {**_own(row.fields), **dict(zip(OURS, told, strict=True))}


def failed(row: BatchRow, sentence: str) -> dict[str, Any]:
    return {"line": row.number, "error": sentence}


def is_failure(result: Mapping[str, Any]) -> bool:
    return set(result) == {"line", "error"}


def matches_row(result: Any, row: BatchRow, adapter: str | None) -> bool:
    """Whether `result`, read from a file, is what `adapter` has to say about `row`."""
    if not isinstance(result, dict):
        return False
    if is_failure(result):
        return bool(result["line"] == row.number)
    if not set(OURS) <= set(result) or result["adapter"] != adapter:
        return False
    # Compared as they are written: NaN is not equal to itself.
    return json.dumps(_own(result)) == json.dumps(_own(row.fields))


def _own(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in OURS}
