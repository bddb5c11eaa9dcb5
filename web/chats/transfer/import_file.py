"""Reads chats from files: exports of this program, and forms of other programs.

Nothing in a file is trusted: all of it is validated, and all ids are new. A file is refused as a
whole, by a RequestError of one sentence. It is read chat by chat and in small steps, so that a
thread that imports a file does not block the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from model.errors import RequestError
from web.chats.store.models import ImportedChat
from web.chats.transfer.import_models import ExportFile, NoExportError
from web.chats.transfer.json_reader import JsonError, JsonReader
from web.chats.transfer.message_content import LeftOut, LeftOutCounts
from web.chats.transfer.other_programs import KEYS, read_other_chat
from web.chats.transfer.own_format import read_own_chat

FORMAT = "linly-chats"
OWN_KEYS = {"format", "version", "chats"}
VERSION = 1
ARCHIVES = ("PK\3\4", "\x1f")  # how a zip and a gzip file begin
MAX_MESSAGES = 100_000  # in one file; `import_models` bounds those of one chat
MAX_CHATS = 1_000
MAX_NAMES = 20  # keys of an object that an error names
MAX_JSON = 100_000_000  # characters


def read_chats(text: str, counts: LeftOutCounts | None = None) -> Iterator[ImportedChat]:
    """Yields the chats of an export of this or another program: see `other_programs`.

    The file may be a list of several of these. Whether its end is valid is known only at the end:
    if not, the caller undoes what it has stored until then.

    Args:
        counts: counts by kind what the chats have in the file and cannot have here.

    Raises:
        RequestError: the file is invalid, or too large.
    """
    if len(text) > MAX_JSON:
        raise RequestError("import_too_large", megabytes=MAX_JSON // 1_000_000)
    if text.startswith(ARCHIVES):
        raise RequestError("import_archive")
    counts = Counter() if counts is None else counts
    try:
        yield from _bound_count(_all_chats(JsonReader(text), counts), counts)
    except JsonError as error:
        raise NoExportError(error.text) from error


def _bound_count(chats: Iterator[ImportedChat], counts: LeftOutCounts) -> Iterator[ImportedChat]:
    count = messages = 0
    for chat in chats:
        count, messages = count + 1, messages + len(chat.messages)
        if count > MAX_CHATS or messages > MAX_MESSAGES:
            raise RequestError("import_too_many", chats=MAX_CHATS, messages=MAX_MESSAGES)
        yield chat
    if not count:
        raise NoExportError(
            "import_chat_without_messages" if counts[LeftOut.CHATS] else "import_empty"
        )


def _all_chats(reader: JsonReader, counts: LeftOutCounts) -> Iterator[ImportedChat]:
    """Yields the chats of a list, or of one object after the other, as in JSON Lines."""
    while True:
        if reader.peek() == "[":
            for _ in reader.items():
                yield from _chats(reader, counts)
        else:
            yield from _chats(reader, counts)
        if not reader.peek():
            return


def _chats(reader: JsonReader, counts: LeftOutCounts) -> Iterator[ImportedChat]:
    """Yields the chats of an export, or the one chat of another object.

    The chats of an export are read one by one if its format and version come first, as in this
    program's own files.
    """
    if reader.peek() != "{":
        reader.value()
        raise NoExportError("import_chat_not_an_object")
    value: dict[str, Any] = {}
    names: list[str] = []
    for key in reader.members():
        if key == "chats" and {"format", "version"} <= value.keys() and reader.peek() == "[":
            _check_format({**value, "chats": []})
            for _ in reader.items():
                yield read_own_chat(reader.value())
            value[key] = []  # they have been read
        elif key in KEYS | OWN_KEYS:
            value[key] = reader.value()
        else:
            reader.skip()
        if len(names) < MAX_NAMES:
            names.append(key)
    if "format" in value:
        yield from map(read_own_chat, _check_format(value).chats)
    elif (chat := read_other_chat(value, names, counts)) is not None:
        yield chat


def _check_format(value: dict[str, Any]) -> ExportFile:
    if value["format"] != FORMAT:
        raise NoExportError("import_unknown_format")
    file = ExportFile.parse(value)
    if not 1 <= file.version <= VERSION:
        raise RequestError("import_newer")
    return file
