"""Data files in the common formats, and broken ones."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

import training.data_files as data_files
from training.data_files import read_rows
from training.parsing import BadRow, DataError, DataRow

ROWS = [
    {"instruction": "Say \"hi\", 世界", "output": "a\nb"},
    {"instruction": "Q2", "output": "c;\td"},
]  # fmt: skip


def values(path: Path) -> list[Any]:
    return [row.value for row in read_rows(path) if isinstance(row, DataRow)]


def write_table(path: Path, delimiter: str) -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["instruction", "input", "output"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


@pytest.mark.parametrize(("name", "delimiter"), [("d.csv", ","), ("d.TSV", "\t")])
def test_tables_have_a_row_for_each_line_without_empty_cells(
    name: str, delimiter: str, tmp_path: Path
) -> None:
    path = write_table(tmp_path / name, delimiter)
    assert values(path) == ROWS
    assert [str(row.place.text) for row in read_rows(path)] == ["row 1", "row 2"]


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.tsv"])
def test_gzipped_files_are_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("sv"):
        write_table(path, "," if name.endswith(".csv") else "\t")
    else:
        text = json.dumps(ROWS) if name.endswith(".json") else "\n".join(map(json.dumps, ROWS))
        path.write_text(text, encoding="utf-8")
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert values(path) == values(packed) == ROWS


def test_parquet_has_chats(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "Hi"}]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    assert values(tmp_path / "d.parquet") == rows


@pytest.mark.parametrize("name", ["d.jsonl", "d.parquet.gz.json"])
def test_parquet_under_another_name_is_refused(name: str, tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / name)
    with pytest.raises(DataError, match=r"Name it \.parquet"):
        list(read_rows(tmp_path / name))


def test_parquet_without_its_library_is_refused_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = tmp_path / "d.parquet"
    path.write_bytes(b"PAR1....PAR1")
    with pytest.raises(DataError, match="pip install pyarrow"):
        list(read_rows(path))


def test_table_with_a_broken_row_names_it(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('instruction,output\nHi,a\nHi,a,b,c\nHi,"a"b\nHi,c\n', encoding="utf-8")
    rows = list(read_rows(path))
    assert [type(row) for row in rows] == [DataRow, BadRow, BadRow, DataRow]
    assert "row 2" in str(rows[1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl.gz", gzip.compress(b'{"a": 1}' * 99)[:-20], "gzip"),
        ("d.jsonl.gz", b"\x1f\x8b\x08garbage that is no gzip", "gzip"),
        ("d.parquet", b"PAR1" + b"\x00" * 40 + b"PAR1", "Parquet"),
        ("d.jsonl", b"PK\x03\x04" + b"\x00" * 40, "ZIP"),
        ("d.jsonl", gzip.compress(b""), "is empty"),
        ("d.csv", b"", "is empty"),
        ("d.csv", "a,b\n你,好\n".encode("gb18030"), "not UTF-8"),
        ("d.jsonl", None, "There is no file"),
    ],
    ids=["torn gzip", "no gzip", "torn Parquet", "ZIP", "empty gzip", "empty", "gb18030", "none"],
)  # fmt: skip
def test_broken_files_are_refused_by_name(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        list(read_rows(path))
    assert message in str(raised.value)


def test_archive_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.jsonl", "w") as archive:
        archive.writestr("d.jsonl", "{}")
    with pytest.raises(DataError, match="Unpack it"):
        list(read_rows(tmp_path / "d.jsonl"))


def test_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "MAX_UNPACKED", 1000)
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 1_000_000))
    with pytest.raises(DataError, match="is larger than"):
        list(read_rows(path))
