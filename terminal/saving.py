"""Chats on the disk as training reads them: one {"messages": [...]} a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from model.types import LinlyError, Message


def save_chat(path: Path, messages: Sequence[Message]) -> int:
    """Add a line to `path`, which is made if it is missing; which chat of the file that is.

    Raises:
        LinlyError: it holds something else than chats, or cannot be written.
    """
    row = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        before = [line for line in text.split("\n") if line.strip()]
        if not all(_is_chat(line) for line in before):
            raise _other(path)
        gap = "\n" if text and not text.endswith("\n") else ""
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{gap}{json.dumps(row, ensure_ascii=False)}\n")
    except UnicodeDecodeError as error:
        raise _other(path) from error
    except OSError as error:
        said = error.strerror or str(error)
        raise LinlyError("save_unwritable", path=path, reason=said) from error
    return len(before) + 1


def _is_chat(line: str) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "messages" in row


def _other(path: Path) -> LinlyError:
    return LinlyError("save_file_not_chats", path=path)
