"""Reads the messages of other programs: their texts, and what a chat of this program cannot hold.

What it cannot hold is counted by kind, so that the page can tell the user.
"""

from __future__ import annotations

import enum
import math
import re
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from model.types import Role
from web.chats.store.models import check_length, sanitize_text
from web.chats.transfer.import_models import NoExportError

MAX_TIME_TEXT = 40  # characters of a time as ISO 8601
MILLISECONDS = 1e11  # times after this number of seconds (the year 5138) are in milliseconds
CITATION = re.compile("\ue200[^\ue200\ue201]*\ue201")  # as ChatGPT marks them within a text


class LeftOut(enum.StrEnum):
    """A kind of content that is not imported. Values are keys of `left_out_…` in scripts.toml."""

    IMAGES = "images"
    RECORDINGS = "recordings"
    FILES = "files"
    TOOLS = "tools"
    TOOL_CALLS = "tool_calls"
    TOOL_RESULTS = "tool_results"
    THOUGHTS = "thoughts"
    CITATIONS = "citations"
    HIDDEN = "hidden"
    ANSWERS = "answers"
    CHATS = "chats"
    OTHER = "other"


LeftOutCounts = Counter[LeftOut]

TEXT_PARTS = {"text", "input_text", "output_text", "audio_transcription"}
# In place of a message that has nothing else, so that the speakers still take turns.
PLACEHOLDERS = {
    LeftOut.IMAGES: "[image]",
    LeftOut.RECORDINGS: "[recording]",
    LeftOut.FILES: "[file]",
}
PART_KINDS = {
    **dict.fromkeys(
        ("image", "image_url", "input_image", "image_asset_pointer", "image_file"), LeftOut.IMAGES
    ),
    **dict.fromkeys(
        ("audio", "audio_url", "input_audio", "audio_asset_pointer", "video", "video_url",
         "real_time_user_audio_video_asset_pointer", "video_container_asset_pointer"),
        LeftOut.RECORDINGS,
    ),
    **dict.fromkeys(("file", "input_file", "document"), LeftOut.FILES),
    **dict.fromkeys(("tool_use", "tool_call", "function_call"), LeftOut.TOOL_CALLS),
    **dict.fromkeys(("tool_result", "function_call_output"), LeftOut.TOOL_RESULTS),
    **dict.fromkeys(("thinking", "reasoning", "redacted_thinking"), LeftOut.THOUGHTS),
}  # fmt: skip


@dataclass(frozen=True)
class Turn:
    """A message of another program."""

    role: Role
    text: str
    created: float


def content_text(content: object, counts: LeftOutCounts) -> str:
    """Returns the text of a message's content: text, or a list of parts.

    Raises:
        RequestError: it is neither, or too long.
    """
    if isinstance(content, str):
        return _without_citations(content, counts)
    if not isinstance(content, list):
        raise NoExportError("import_message_not_text")
    left_out: LeftOutCounts = Counter()
    texts = [text for part in content if (text := _part_text(part, left_out))]
    counts.update(left_out)
    text = _without_citations("\n".join(texts), counts)
    return text or next((PLACEHOLDERS[kind] for kind in left_out if kind in PLACEHOLDERS), "")


def _without_citations(text: str, counts: LeftOutCounts) -> str:
    check_length(text)
    text, citations = CITATION.subn("", text)
    count(counts, LeftOut.CITATIONS, citations)
    return sanitize_text(text)


def _part_text(part: object, counts: LeftOutCounts) -> str | None:
    """Returns the text of a part, or None and counts the part."""
    kind = fields(part).get("type", fields(part).get("content_type"))
    if not isinstance(kind, str):
        raise NoExportError("import_message_not_text")
    if kind not in TEXT_PARTS:
        count(counts, PART_KINDS.get(kind, LeftOut.OTHER))
        return None
    text = fields(part).get("text")
    if not isinstance(text, str):
        raise NoExportError("import_field_missing", name="text")
    return text


def count_files(files: object, counts: LeftOutCounts) -> None:
    """Counts the files that are attached to a message, by their type or MIME type."""
    for file in files if isinstance(files, list) else ():
        types = f"{fields(file).get('type')} {fields(file).get('mime_type')}"
        count(counts, LeftOut.IMAGES if "image" in types else LeftOut.FILES)


def count(counts: LeftOutCounts, kind: LeftOut, number: int = 1) -> None:
    """Counts `number` items of a kind. There is no entry for none."""
    if number:
        counts[kind] += number


def fields(value: object) -> dict[str, Any]:
    """Returns an object of JSON, or an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def read_time(value: object) -> float:
    """Returns a time of another program as seconds, at most now; now if there is none.

    It may be seconds, milliseconds or ISO 8601.
    """
    now = time.time()
    if isinstance(value, str) and len(value) <= MAX_TIME_TEXT:
        try:
            value = datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            return now
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return now
    return float(min(value / 1000 if value > MILLISECONDS else value, now))
