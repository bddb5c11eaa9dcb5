"""Whole files of training data, and the bad rows in them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from model.text.prompt import PromptTemplate
from training.dataset import choose_data_file, read_data, resolve_data_path
from training.parsing import DataError

PLAIN = PromptTemplate("plain", "")
GOOD = json.dumps({"instruction": "Hi", "output": "Hello"})
SHIPPED = CHECKOUT / "training" / "chats"


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_few_bad_rows_are_counted_and_named_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [GOOD, "oops", GOOD, '{"instruction": "Hi"}', *[GOOD] * 6])
    data = read_data(path, PLAIN)
    assert [chat.line for chat in data.chats] == [1, 3, 5, 6, 7, 8, 9, 10]
    assert [row.line for row in data.bad] == [2, 4]
    assert data.digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("good", "bad", "fine"),
    [(1, 1, True), (1, 2, False), (4, 3, True), (9, 4, False), (90, 10, True), (90, 11, False)],
)
def test_many_bad_rows_are_refused_with_the_first_reasons(
    good: int, bad: int, fine: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "d.jsonl", [GOOD] * good + ['{"text": "x"}'] * bad)
    if fine:
        assert len(read_data(path, PLAIN).chats) == good
        return
    with pytest.raises(DataError) as caught:
        read_data(path, PLAIN)
    assert f"{bad} of {good + bad} rows" in str(caught.value)
    assert f"line {good + 1}: it has text" in str(caught.value)
    assert (f"and {bad - 3} more" in str(caught.value)) == (bad > 3)


def test_a_list_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read_data(write(tmp_path / "d.json", ["[]"]), PLAIN)


@pytest.mark.parametrize("name", ["lighthouse", "json", "xiaodeng"])
def test_the_shipped_dialogues_are_whole(name: str) -> None:
    data = read_data(SHIPPED / f"{name}.jsonl", PLAIN)
    assert len(data.chats) >= 100
    assert not data.bad
    questions = [m.content for chat in data.chats for m in chat.messages if m.role == "user"]
    assert len(set(questions)) == len(questions)


def test_a_near_miss_is_answered_with_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "revised_dialog.json", ["[]"])
    with pytest.raises(DataError, match=r"Did you mean .*revised_dialog\.json"):
        resolve_data_path(str(tmp_path / "revised_dialogue.json"))
    assert resolve_data_path(str(path)) == path


def test_without_a_network_a_data_set_is_named_in_a_sentence() -> None:
    with pytest.raises(DataError, match="There is no file org/name here, and HF_HUB_OFFLINE"):
        resolve_data_path("org/name")


def test_the_file_of_a_data_set_is_the_one_for_training() -> None:
    assert (
        choose_data_file(["README.md", "data/test.jsonl", "data/train.jsonl"]) == "data/train.jsonl"
    )
    assert choose_data_file(["b.json", "alpaca_data_cleaned.json", "dataset_infos.json"]) == (
        "alpaca_data_cleaned.json"
    )
    assert choose_data_file(["data.parquet"]) is None
