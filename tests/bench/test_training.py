"""Training measured beside a plain Trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import training
from bench.training import OURS, PLAIN, Run, summary, table


def test_ratios_are_those_of_each_round() -> None:
    rounds = {
        OURS: [Run(10, 20, 5, 0.5), Run(20, 40, 7, 0.6), Run(40, 50, 6, 0.7)],
        PLAIN: [Run(20, 30, 8, 0.5), Run(30, 60, 9, 0.6), Run(20, 25, 9, 0.7)],
    }
    figures = summary(rounds)
    assert figures["ratios"] == {"training": 1.5, "whole": 1.5}
    ours = figures[OURS]
    assert isinstance(ours, dict)
    assert (ours["training_seconds"], ours["peak_bytes"]) == (20, 7)
    assert "| times as fast | 1.50 | 1.50 | | |" in table(figures)


@pytest.mark.slow
def test_both_train_the_same_job(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = [{"instruction": f"x = {n}", "output": "The lazy dog."} for n in range(12)]
    data = tmp_path / "d.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.setenv("LINLY_BASE_MODEL", str(tiny_folder))
    monkeypatch.setattr("bench.ending.end_cleanly", lambda: None)
    words = ["--data", str(data), "--rounds", "1", "--dtype", "fp32", "--json"]
    monkeypatch.setattr("sys.argv", ["bench/training.py", *words])
    assert training.main() == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures[OURS]["held_out_loss"] == pytest.approx(figures[PLAIN]["held_out_loss"], rel=0.1)
    assert figures["ratios"]["training"] > 0
