"""Previews of data files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.folders.model_folder import load_tokenizer, read_model_folder
from model.text.prompt_template import PromptTemplate
from tests.tiny_model import TEMPLATE
from training.parsing import DataError
from training.preview import Piece, preview

MODEL = PromptTemplate("model", TEMPLATE)
END_IDS = frozenset([2])  # <|im_end|>


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def row(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


def test_preview_has_the_first_chats_in_learned_and_other_pieces(
    tmp_path: Path, tiny_folder: Path
) -> None:
    tokenizer = load_tokenizer(read_model_folder(tiny_folder))
    path = write(tmp_path / "d.jsonl", *(row(f"x = {n}", "你好 <|im_end|>") for n in range(5)), 3)
    shown = preview(path, MODEL, tokenizer, END_IDS, 100)
    assert (shown.count, shown.bad, len(shown.chats)) == (5, 1, 3)
    assert str(shown.reasons[0]).startswith("line 6: a number")
    assert shown.chats[1] == (
        Piece("<|im_start|>user\nx = 1<|im_end|>\n<|im_start|>assistant\n", learned=False),
        Piece("你好 <|im_end|><|im_end|>", learned=True),
    )
    assert not shown.notes
    everything = preview(path, MODEL, tokenizer, END_IDS, 100, train_on_inputs=True)
    assert [[piece.learned for piece in chat] for chat in everything.chats] == [[True]] * 3


def test_preview_refuses_a_file_without_usable_rows(tmp_path: Path, tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(read_model_folder(tiny_folder))
    with pytest.raises(DataError, match=r"2 of 2 rows in .*d\.jsonl cannot be used: line 1"):
        preview(write(tmp_path / "d.jsonl", 1, 2), MODEL, tokenizer, END_IDS, 100)


def test_preview_tells_of_keys_that_are_not_learned(tmp_path: Path, tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(read_model_folder(tiny_folder))
    path = write(tmp_path / "d.jsonl", *({**row("x", "y"), "rejected": "z"} for _ in range(2)))
    (note,) = preview(path, MODEL, tokenizer, END_IDS, 100).notes
    assert str(note) == 'keys that are not learned (rows): "rejected" (2)'
