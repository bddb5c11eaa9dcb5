"""`bench/training.py` compares `finetune.py` with a plain Trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import training
from bench.training import BASELINE, FINETUNE, cost_of, summary, table
from tests.bench.conftest import RunAsJson


def test_ratios_are_medians_over_the_rounds() -> None:
    runs = {
        FINETUNE: [(10, 20, 5, 0.5), (20, 40, 7, 0.6), (40, 50, 6, 0.7)],
        BASELINE: [(20, 30, 8, 0.5), (30, 60, 9, 0.6), (20, 25, 9, 0.7)],
    }
    figures = summary({name: [cost_of(*run) for run in found] for name, found in runs.items()})
    assert figures["ratios"] == {"training": 1.5, "whole": 1.5}
    assert figures[FINETUNE]["training_seconds"] == 20
    assert figures[FINETUNE]["peak_bytes"] == 7
    assert table(figures).splitlines()[-1].split() == ["times", "as", "fast", "1.50", "1.50"]


@pytest.mark.slow
def test_both_trainers_train_the_same_job(
    tiny_folder: Path, tmp_path: Path, run_as_json: RunAsJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"instruction": f"x = {n}", "output": "The lazy dog."} for n in range(12)]
    data = tmp_path / "d.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.setenv("LINLY_BASE_MODEL", str(tiny_folder))
    figures = run_as_json(training, "--data", str(data), "--rounds", "1", "--dtype", "fp32")
    assert figures[FINETUNE]["held_out_loss"] == pytest.approx(
        figures[BASELINE]["held_out_loss"], rel=0.1
    )
    assert figures["ratios"]["training"] > 0
