"""`bench/fidelity.py`: right figures on known logits, sensible ones on a small model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bench import fidelity
from bench.fidelity import compare_logits, fidelity_of, measure_fidelity
from tests.bench.conftest import Refuse, RunAsJson
from tests.tiny_model import TEXT


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("".join(TEXT) * 30, encoding="utf-8")
    return file


def test_equal_logits_have_no_divergence() -> None:
    logits = torch.randn(5, 7)
    figures = fidelity_of(compare_logits(logits, logits, torch.arange(5)))
    assert figures.tokens == 5
    assert figures.ppl_full == figures.ppl_8bit
    assert figures.mean_kl == pytest.approx(0, abs=1e-6)
    assert figures.top1_agreement == 1


def test_known_logits_give_known_figures() -> None:
    full, int8 = torch.tensor([[0.5, 0.5], [0.75, 0.25]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    compared = compare_logits(full.log(), int8.log(), torch.tensor([0, 0]))
    figures = fidelity_of(compared[None])  # one window of two positions
    assert figures.ppl_full == pytest.approx(1 / math.sqrt(0.5 * 0.75), rel=1e-5)
    assert figures.ppl_8bit == pytest.approx(1 / math.sqrt(0.25 * 0.5), rel=1e-5)
    divergences = (
        0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75),
        0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5),
    )
    assert figures.mean_kl == pytest.approx(sum(divergences) / 2, rel=1e-5)


@pytest.mark.slow
def test_small_model_with_and_without_an_adapter(
    tiny_folder: Path, tiny_adapters: Path, text: Path
) -> None:
    base = measure_fidelity(str(tiny_folder), None, text, 200, 50)
    assert {name: figure.tokens for name, figure in base.items()} == {
        "all": 4 * 49, "prefill": 4 * 25, "decode": 4 * 24,
    }  # fmt: skip
    assert all(0 < figure.mean_kl < 0.05 for figure in base.values())
    adapted = measure_fidelity(str(tiny_folder), tiny_adapters / "all", text, 200, 50)
    assert 0 < adapted["all"].mean_kl < 0.05
    assert adapted["all"].ppl_full != pytest.approx(base["all"].ppl_full, rel=0.01)


@pytest.mark.parametrize(("name", "window"), [("none.txt", "50"), ("text.txt", "100000")])
def test_unusable_text_is_one_sentence(
    tiny_folder: Path, text: Path, name: str, window: str, refuse: Refuse
) -> None:
    words = ["--base_model", str(tiny_folder), "--text", str(text.parent / name)]
    assert "--text" in refuse(fidelity, *words, "--window", window, "--tokens", "200000")


def test_json_has_the_documented_keys(
    tiny_folder: Path, text: Path, run_as_json: RunAsJson
) -> None:
    words = ["--base_model", str(tiny_folder), "--text", str(text), "--tokens", "100"]
    printed = run_as_json(fidelity, *words, "--window", "50")
    assert {"tokens", "ppl_full", "ppl_8bit", "mean_kl", "top1_agreement"} < printed.keys()
