"""Data files: their chats and bad rows, and how a file or a data set is found by its name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from model.text.prompt_template import PromptTemplate
from training.dataset import choose_data_file, read_data, resolve_data_path
from training.parsing import DataError

PLAIN = PromptTemplate("plain", "")
GOOD = json.dumps({"instruction": "Hi", "output": "Hello"})
SHIPPED = CHECKOUT / "training" / "chats"


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_read_data_lists_a_few_bad_rows_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [GOOD, "oops", GOOD, '{"instruction": "Hi"}', *[GOOD] * 6])
    data = read_data(path, PLAIN)
    assert [chat.place.line for chat in data.chats] == [1, 3, 5, 6, 7, 8, 9, 10]
    assert [row.place.line for row in data.bad] == [2, 4]
    assert data.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("good", "bad", "accepted"),
    [(1, 1, True), (1, 2, False), (4, 3, True), (9, 4, False), (90, 10, True), (90, 11, False)],
)
def test_read_data_refuses_many_bad_rows_with_the_first_reasons(
    good: int, bad: int, accepted: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "d.jsonl", [GOOD] * good + ['{"text": "x"}'] * bad)
    if accepted:
        assert len(read_data(path, PLAIN).chats) == good
        return
    with pytest.raises(DataError) as raised:
        read_data(path, PLAIN)
    assert f"{bad} of {good + bad} rows" in str(raised.value)
    assert f"line {good + 1}: it has text" in str(raised.value)
    assert (f"and {bad - 3} more" in str(raised.value)) == (bad > 3)


def test_read_data_refuses_a_list_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_data(write(tmp_path / "d.json", ["[]"]), PLAIN)


@pytest.mark.parametrize("name", ["lighthouse", "json", "xiaodeng"])
def test_the_shipped_data_have_no_bad_rows_and_no_question_twice(name: str) -> None:
    data = read_data(SHIPPED / f"{name}.jsonl", PLAIN)
    assert len(data.chats) >= 100
    assert not data.bad
    questions = [m.content for chat in data.chats for m in chat.messages if m.role == "user"]
    assert len(set(questions)) == len(questions)


def test_a_missing_file_is_reported_with_a_similar_path(tmp_path: Path) -> None:
    path = write(tmp_path / "revised_dialog.json", ["[]"])
    with pytest.raises(DataError) as raised:
        resolve_data_path(str(tmp_path / "revised_dialogue.json"))
    assert f"Did you mean {path}?" in str(raised.value)
    assert resolve_data_path(str(path)) == path
    with pytest.raises(DataError, match=r"There is no file .*\. Correct the path of --data_path\."):
        resolve_data_path(str(tmp_path / "other" / "chats.jsonl"))


def test_a_data_set_is_not_downloaded_offline() -> None:
    with pytest.raises(DataError, match="There is no file org/name, and HF_HUB_OFFLINE"):
        resolve_data_path("org/name")


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["README.md", "data/test.jsonl", "data/train.jsonl"], "data/train.jsonl"),
        (["b.json", "alpaca_data_cleaned.json", "dataset_infos.json"], "alpaca_data_cleaned.json"),
        (["data.parquet", "train.arrow"], "data.parquet"),
        (["a.csv", "b.jsonl.gz"], "b.jsonl.gz"),
        (["data.arrow"], None),
    ],
)
def test_choose_data_file_prefers_the_training_file_of_a_data_set(
    names: list[str], chosen: str | None
) -> None:
    assert choose_data_file(names) == chosen


def test_unread_keys_are_named_once_with_their_rows(tmp_path: Path) -> None:
    rows = [{"instruction": "Hi", "output": "Hello", "id": n, "rejected": "x"} for n in range(3)]
    rows[0]["tools"] = "[]"
    data = read_data(write(tmp_path / "d.jsonl", list(map(json.dumps, rows))), PLAIN)
    assert str(data.unread_keys()).endswith(': "rejected" (3), "tools" (1)')
    assert read_data(write(tmp_path / "e.jsonl", [GOOD]), PLAIN).unread_keys() is None


def test_unread_keys_are_cut_in_number_and_length(tmp_path: Path) -> None:
    row = {"instruction": "Hi", "output": "x", **{f"\x1b[31m{n}" + "k" * 999: 1 for n in range(99)}}
    text = str(read_data(write(tmp_path / "d.jsonl", [json.dumps(row)]), PLAIN).unread_keys())
    assert len(text) < 700
    assert "\x1b" not in text
    assert text.endswith("…")
