"""Suggestions for mistyped names."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from model.suggestions import closest, closest_folder, did_you_mean


def test_closest_ignores_case() -> None:
    assert closest("ALPACCA", ["alpaca", "linly"]) == "alpaca"
    assert closest("zzz", ["alpaca", "linly"]) is None


def test_did_you_mean_is_a_text_in_every_language() -> None:
    assert did_you_mean("linli", ["linly"], "choose_listed").message() == "Did you mean linly?"
    otherwise = did_you_mean("zzz", ["linly"], "there_are", names=("linly",))
    assert otherwise.message("zh") == "可选：linly。"


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json", "base.gguf", "x.bin"])
def test_closest_folder_suggests_only_folders_with_a_model(tmp_path: Path, file: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "modell").mkdir()
    (tmp_path / "modell" / file).touch()
    (tmp_path / "models" / "__init__.py").touch()
    assert closest_folder(tmp_path / "model", [tmp_path]) == tmp_path / "modell"
    assert closest_folder(tmp_path / "model", [tmp_path / "missing"]) is None


def test_closest_folder_suggests_no_source_folder() -> None:
    assert closest_folder(Path("nosuchmodel"), [CHECKOUT]) is None
    assert closest_folder(Path("modell"), [CHECKOUT]) is None
