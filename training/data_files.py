"""Reads the rows of a data file: JSON in its usual forms, CSV, Parquet, and any of them gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from model.translations import LocalizedText
from training.parsing import BadRow, DataError, DataRow, Place, decode_text, parse_rows, read_bytes

GZIP, PARQUET, ZIP = b"\x1f\x8b", b"PAR1", b"PK\x03\x04"
MAX_UNPACKED = 1 << 30  # bytes of a gzipped file
PARQUET_SUFFIX = ".parquet"
SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_rows(path: Path) -> Iterator[DataRow | BadRow]:
    """Reads the rows of a file.

    Raises (from the iterator):
        DataError: it is missing, empty, broken, or in a format that is not read.
    """
    data, suffix = read_bytes(path), path.suffix.lower()
    if data.startswith(GZIP):
        data, suffix = _unpack(path, data), Path(path.stem).suffix.lower()
    if data.startswith(PARQUET):
        # Its reader is given no file that only pretends to be something else: a visitor's upload.
        if suffix != PARQUET_SUFFIX:
            raise DataError("data_parquet_misnamed", path=path)
        return _read_parquet(path, data)
    if data.startswith(ZIP):
        raise DataError("data_zipped", path=path)
    text = decode_text(path, data)
    return _read_table(text, SEPARATORS[suffix]) if suffix in SEPARATORS else parse_rows(text)


def _unpack(path: Path, data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as file:
            unpacked = file.read(MAX_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError("data_gzip_broken", path=path, reason=error) from error
    if len(unpacked) > MAX_UNPACKED:
        raise DataError("data_too_large", path=path, gigabytes=MAX_UNPACKED >> 30)
    return unpacked


def _read_parquet(path: Path, data: bytes) -> Iterator[DataRow]:
    try:
        from pyarrow import ArrowException, BufferReader, parquet
    except ImportError as error:
        raise DataError("data_parquet_needs_pyarrow", path=path) from error
    try:
        rows = parquet.read_table(BufferReader(data)).to_pylist()
    except (ArrowException, OSError, ValueError) as error:
        raise DataError("data_parquet_broken", path=path, reason=error) from error
    return (DataRow(Place(1, number), row) for number, row in enumerate(rows, 1))


def _read_table(text: str, separator: str) -> Iterator[DataRow | BadRow]:
    """The rows of a table, by the names in its first line. Empty cells are left out."""
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    for number in count(1):
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield BadRow(
                Place(reader.line_num, number), LocalizedText("not_csv", {"reason": error})
            )
            continue
        if row is None:
            return
        values: dict[str, Any] = {key: value for key, value in row.items() if value}
        if None in values:
            yield BadRow(Place(reader.line_num, number), LocalizedText("csv_too_many_cells"))
        else:
            yield DataRow(Place(reader.line_num, number), values)
