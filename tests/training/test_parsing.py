"""Parsing of data files into rows with their lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.parsing import BadRow, DataError, DataRow, Place, decode_text, parse_rows, read_bytes


def test_rows_of_json_lines_have_their_line_numbers() -> None:
    text = '{"a": 1}\n\n{"a": 2}\r\n  {"a": 3}'
    assert list(parse_rows(text)) == [
        DataRow(Place(1), {"a": 1}),
        DataRow(Place(3), {"a": 2}),
        DataRow(Place(4), {"a": 3}),
    ]


def test_a_line_that_is_not_json_is_a_bad_row_between_good_ones() -> None:
    first, bad, last = parse_rows('{"a": 1}\n{"a": oops}\n{"a": 3}\n')
    assert (first, last) == (DataRow(Place(1), {"a": 1}), DataRow(Place(3), {"a": 3}))
    assert isinstance(bad, BadRow)
    assert str(bad) == "line 2: not JSON (Expecting value, column 7)"


def test_a_unicode_line_separator_in_a_string_does_not_end_the_line() -> None:
    text = '{"a": "one\u2028two\u0085three"}\n{"a": 2}'
    assert [row.place.line for row in parse_rows(text)] == [1, 2]


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_of_a_list_have_the_lines_where_they_begin(indent: int | None) -> None:
    rows = [{"a": 1}, {"a": "x\ny"}, {"a": [3]}]
    text = "\n" + json.dumps(rows, indent=indent)
    parsed = list(parse_rows(text))
    assert [row.value for row in parsed if isinstance(row, DataRow)] == rows
    assert [row.place.line for row in parsed] == ([2, 2, 2] if indent is None else [3, 6, 9])


def test_an_empty_list_has_no_rows() -> None:
    assert list(parse_rows(" [ ] ")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": 2', "begins on line 2: not JSON"),
        ('[{"a": 1}\n{"a": 2}]', "line 1: the list ends after this row, or a comma is missing"),
        ('[{"a": 1},\n', "line 2: not JSON"),
        ("[" * 100_000, "not JSON (RecursionError)"),
    ],
)
def test_a_broken_list_is_refused_with_the_line(text: str, message: str) -> None:
    with pytest.raises(DataError) as raised:
        list(parse_rows(text))
    assert message in str(raised.value)


def test_text_after_a_list_is_refused() -> None:
    with pytest.raises(DataError, match="more text after the list, which ends on line 2"):
        list(parse_rows('[{"a": 1},\n{"a": 2}]\n[{"a": 3}]'))


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + '{"a": "世界"}'.encode())
    assert list(parse_rows(decode_text(path, read_bytes(path)))) == [
        DataRow(Place(1), {"a": "世界"})
    ]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_another_encoding_is_reported_with_a_command_that_converts_it(
    encoding: str, tmp_path: Path
) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes('{"a": 1}\n{"a": "今天天气很好，我们去公园。"}'.encode(encoding))
    with pytest.raises(DataError) as raised:
        decode_text(path, read_bytes(path))
    command = f"iconv -f {encoding} -t utf-8 {path} -o {tmp_path / 'chats.utf8.jsonl'}"
    assert f"it looks like {encoding}" in str(raised.value)
    assert command in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "There is no file"), (b"", "is empty"), (b" \n\t\n", "is empty"),
     (b'{"a": "\xff\xfe\xfd"}', "is not UTF-8 (line 1, byte 7)")],
)  # fmt: skip
def test_an_unreadable_file_is_reported(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "chats.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        decode_text(path, read_bytes(path))
    assert message in str(raised.value)


def test_a_folder_is_refused_as_a_data_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        read_bytes(tmp_path)


ROWS = [{"instruction": f"Q{n}", "output": "A\nB"} for n in range(3)]


def values(text: str) -> list[object]:
    return [row.value for row in parse_rows(text) if isinstance(row, DataRow)]


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(json.dumps(row, indent=2) for row in ROWS),
        json.dumps({"train": ROWS}),
        json.dumps({"data": ROWS}, indent=1),
        json.dumps({"version": "1.0", "rows": ROWS, "count": 3}),
        json.dumps({"train": ROWS, "test": ROWS[:1]}),
        json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
        json.dumps({key: {n: row[key] for n, row in enumerate(ROWS)} for key in ROWS[0]}),
    ],
    ids=["pretty", "train", "key", "key among others", "splits", "columns", "pandas"],
)
def test_other_shapes_of_json_have_the_same_rows(text: str) -> None:
    assert values(text) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
def test_one_object_is_one_row(indent: int | None) -> None:
    for row in (ROWS[0], {"messages": [{"role": "user", "content": "Hi"}]},
                {"conversations": [{"from": "human", "value": "Hi"}]},
                {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"name": "look_up"}]},
                {**ROWS[0], "images": [{"url": "x"}]}):  # fmt: skip
        assert values(json.dumps(row, indent=indent)) == [row]


def test_columns_of_chats_are_rows() -> None:
    chats = [[{"role": "user", "content": "Hi"}]] * 2
    assert values(json.dumps({"messages": chats, "id": [1, 2]})) == [
        {"messages": chats[0], "id": 1}, {"messages": chats[1], "id": 2}
    ]  # fmt: skip


def test_several_lists_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="'a', 'b'"):
        list(parse_rows(json.dumps({"a": ROWS, "b": ROWS})))


def test_rows_of_a_list_on_one_line_have_numbers() -> None:
    places = [row.place for row in parse_rows(json.dumps(ROWS))]
    assert [str(place.text) for place in places] == ["row 1", "row 2", "row 3"]
