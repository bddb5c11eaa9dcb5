"""`bench/folders.py`: its inputs fit the commands, and its table shows the medians."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import folders
from bench.random_model import Geometry
from model.folders.model_folder import load_tokenizer, read_model_folder
from tests.bench.conftest import Refuse, RunAsJson, Start

TINY = "--layers 2 --hidden 256 --intermediate 96 --heads 2 --vocab 320".split()  # noqa: SIM905


@pytest.mark.slow
def test_every_command_is_measured(tmp_path: Path, run_as_json: RunAsJson) -> None:
    figures = run_as_json(folders, *TINY, "--rounds", "1", "--dir", str(tmp_path))
    assert figures["copy"]["over_copy"] == 1
    for name in ("convert", "merge"):
        assert figures[name]["bytes_per_second"] > 0
        assert figures[name]["peak_bytes"] > 10_000_000
    assert figures["check"]["seconds"] > 0
    assert list(tmp_path.iterdir()) == []


def test_failed_command_is_one_sentence(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(folders, "_model", lambda *words: ["cp", "/nowhere", "/nowhere"])
    assert start(folders, *TINY, "--rounds", "1", "--dir", str(tmp_path)) == 1
    assert "The measurement broke off: cp" in capsys.readouterr().err.splitlines()[-1]


def test_sizes_that_do_not_belong_together_are_refused(refuse: Refuse) -> None:
    assert "does not divide" in refuse(folders, "--heads", "7")


def test_inputs_fit_together(tmp_path: Path) -> None:
    from model.__main__ import main

    geometry = Geometry(layers=1, hidden=256, intermediate=96, heads=2, kv_heads=2, vocab=320)
    folders.write_inputs(geometry, tmp_path)
    checkpoint, tokenizer, adapter = (str(tmp_path / name) for name in folders.INPUTS)
    out = tmp_path / "out"
    assert main(["convert", checkpoint, str(out), "--tokenizer", tokenizer]) == 0
    assert load_tokenizer(read_model_folder(out)).vocab_size == geometry.vocab
    merged = tmp_path / "merged"
    words = ["--base_model", str(out), "--lora_model", adapter]
    assert main(["merge", *words, "--output_dir", str(merged)]) == 0


def test_table_shows_medians() -> None:
    copies = [
        {"seconds": seconds, "bytes_per_second": 1e8 / seconds, "peak_bytes": peak}
        for seconds, peak in ((1.0, 5), (2.0, 6), (4.0, 7))
    ]
    checks = [{"seconds": 3.0, "bytes_per_second": 0, "peak_bytes": 2_000_000_000}]
    figures = folders.summary({"copy": copies, "check": checks})
    lines = folders.table(figures).splitlines()
    assert lines[-2].split() == ["copy", "2.0", "50", "1.00", "0.00"]
    assert lines[-1].split() == ["check", "3.0", "2.00"]
