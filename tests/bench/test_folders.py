"""`bench/folders.py`: what it makes is what the commands take, and its table tells the medians."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import folders
from bench.foldering import made
from bench.geometry import Geometry
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.types import SettingsError

TINY = [
    "--layers",
    "2",
    "--hidden",
    "256",
    "--intermediate",
    "96",
    "--heads",
    "2",
    "--vocab",
    "320",
]


def start(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("bench.ending.end_cleanly", lambda: None)
    monkeypatch.setattr("sys.argv", ["bench/folders.py", *words])
    return folders.main()


@pytest.mark.slow
def test_every_command_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "--rounds", "1", "--json", "--dir", str(tmp_path)]
    assert start(monkeypatch, *words) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["copy"]["over_copy"] == 1
    for name in ("convert", "merge"):
        assert figures[name]["bytes_per_second"] > 0
        assert figures[name]["peak_bytes"] > 10_000_000
    assert figures["check"]["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_fails_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(folders, "_model", lambda *words: ["cp", "/nowhere", "/nowhere"])
    assert start(monkeypatch, *TINY, "--rounds", "1", "--dir", str(tmp_path)) == 1
    assert "The measurement broke off: cp" in capsys.readouterr().err.splitlines()[-1]


def test_sizes_that_do_not_belong_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, "--heads", "7") == 2
    assert "does not divide" in capsys.readouterr().err
    with pytest.raises(SettingsError):
        Geometry(layers=0)


def test_what_is_made_fits_together(tmp_path: Path) -> None:
    from model.__main__ import main

    geometry = Geometry(layers=1, hidden=256, intermediate=96, heads=2, kv_heads=2, vocab=320)
    made.write_checkpoint(geometry, tmp_path / "c.bin")
    made.write_spm(geometry.vocab, tmp_path / "c.model")
    made.write_adapter(geometry, tmp_path / "adapter")
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "c.bin"), str(out)]) == 0
    assert load_tokenizer(read_model_folder(out)).vocab_size == geometry.vocab
    merged = tmp_path / "merged"
    words = ["--base_model", str(out), "--lora_model", str(tmp_path / "adapter")]
    assert main(["merge", *words, "--output_dir", str(merged)]) == 0


def test_the_table_tells_medians() -> None:
    rounds = {
        "copy": [folders.Run(1.0, 5, 100_000_000), folders.Run(2.0, 6, 100_000_000),
                 folders.Run(4.0, 7, 100_000_000)],
        "check": [folders.Run(3.0, 2_000_000_000, 0)],
    }  # fmt: skip
    figures = folders.summary(rounds)
    lines = folders.table(figures).splitlines()
    assert lines[-2] == "| copy | 2.0 | 50 | 1.00 | 0.00 |"
    assert lines[-1] == "| check | 3.0 |  |  | 2.00 |"
