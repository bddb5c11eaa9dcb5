"""Checks the zip archive of a PyTorch file before torch opens it.

torch stores its records uncompressed. So an archive that unpacks to more bytes than it has, or has
an endless directory, was made to fill the memory of the program that opens it.
"""

from __future__ import annotations

import os
import struct
import zipfile
from io import FileIO
from pathlib import Path

from model.bounded_files import UnfitFileError, open_file

MAX_MEMBERS = 200_000  # a record for each tensor
MAX_DIRECTORY_BYTES = 64 << 20  # all of it is read into memory
MAX_PICKLE_BYTES = 8 << 20  # a 13B's has 0.1 MB; reading it takes time for each instruction
# The records with which a zip archive ends (PKWARE's APPNOTE, 4.3.14 to 4.3.16).
END = struct.Struct("<4s4H2LH")
END_SIGNATURE = b"PK\x05\x06"
LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
MAX_COMMENT = 65535
START = b"PK\x03\x04"
NOT_AN_ARCHIVE = "file_not_pytorch"


def is_archive(file: Path) -> bool:
    """Whether `file` begins like an archive that torch writes."""
    with open_file(file) as opened:
        return opened.read(len(START)) == START


def check_archive(file: Path) -> None:
    """Checks that `file` is an archive as torch writes them.

    Raises:
        UnfitFileError: it is torn, or would unpack to more bytes than it has.
        OSError: it cannot be read.
    """
    with open_file(file) as opened:
        size = os.fstat(opened.fileno()).st_size
        _check_directory(opened, size)
        try:
            with zipfile.ZipFile(opened) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, UnicodeError) as error:
            raise UnfitFileError(NOT_AN_ARCHIVE) from error
    packed = any(
        member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size
        for member in members
    )
    if packed or sum(member.file_size for member in members) > size:
        raise UnfitFileError("archive_unpacks_larger")
    pickles = (member for member in members if member.filename.endswith(".pkl"))
    if any(member.file_size > MAX_PICKLE_BYTES for member in pickles):
        raise UnfitFileError("pickle_too_large", megabytes=MAX_PICKLE_BYTES >> 20)


def _check_directory(opened: FileIO, size: int) -> None:
    """Checks that the archive's directory is small enough to be read."""
    tail_size = min(size, END.size + MAX_COMMENT + LOCATOR.size)
    opened.seek(size - tail_size)
    tail = opened.read(tail_size)
    at = tail.rfind(END_SIGNATURE)
    if at < 0 or len(tail) - at < END.size:
        raise UnfitFileError(NOT_AN_ARCHIVE)
    _, _, _, _, count, nbytes, _, _ = END.unpack_from(tail, at)
    if at >= LOCATOR.size and tail[at - LOCATOR.size : at].startswith(b"PK\x06\x07"):
        _, _, place, _ = LOCATOR.unpack_from(tail, at - LOCATOR.size)
        opened.seek(min(place, size))
        record = opened.read(END64.size)
        if len(record) < END64.size:
            raise UnfitFileError(NOT_AN_ARCHIVE)
        *_, count, nbytes, _ = END64.unpack(record)
    if count > MAX_MEMBERS or nbytes > MAX_DIRECTORY_BYTES:
        raise UnfitFileError("archive_too_many_members", most=MAX_MEMBERS)
