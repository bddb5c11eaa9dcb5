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
    shown = preview(path, MODEL, tokenizer, 100)
    assert (shown.count, shown.bad, len(shown.chats)) == (5, 1, 3)
    assert str(shown.reasons[0]).startswith("line 6: a number")
    assert shown.chats[1] == (
        Piece("<|im_start|>user\nx = 1<|im_end|>\n<|im_start|>assistant\n", learned=False),
        Piece("你好 <|im_end|><|im_end|>", learned=True),
        Piece("\n", learned=False),
    )
    everything = preview(path, MODEL, tokenizer, 100, train_on_inputs=True)
    assert [[piece.learned for piece in chat] for chat in everything.chats] == [[True]] * 3


def test_preview_refuses_a_file_without_usable_rows(tmp_path: Path, tiny_folder: Path) -> None:
    tokenizer = load_tokenizer(read_model_folder(tiny_folder))
    with pytest.raises(DataError, match=r"2 of 2 rows in .*d\.jsonl cannot be used: line 1"):
        preview(write(tmp_path / "d.jsonl", 1, 2), MODEL, tokenizer, 100)
