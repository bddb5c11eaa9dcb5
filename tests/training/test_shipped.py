"""The shipped adapters are what their own commands make."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import finetune

CHECKOUT = Path(__file__).parents[2]
ADAPTERS = ("lighthouse", "json", "xiaodeng")


def card(folder: Path) -> dict[str, object]:
    told: dict[str, object] = json.loads((folder / "linly_adapter.json").read_text("utf-8"))
    return told


@pytest.mark.parametrize("name", ADAPTERS)
def test_their_cards_tell_how_they_were_made(name: str) -> None:
    training = card(CHECKOUT / "adapters" / name)["training"]
    assert isinstance(training, dict)
    words = shlex.split(training["command"])
    assert words[:2] == ["python", "finetune.py"]
    assert words[words.index("--output_dir") + 1] == f"adapters/{name}"
    assert training["loss"]["adapter"] < 0.4 * training["loss"]["base"]


@pytest.mark.real_model
@pytest.mark.slow
def test_the_same_command_gives_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default_folder: Path
) -> None:
    """Up to what another processor rounds otherwise."""
    monkeypatch.chdir(CHECKOUT)
    shipped = card(CHECKOUT / "adapters" / "json")["training"]
    assert isinstance(shipped, dict)
    words = shlex.split(shipped["command"])[2:]
    words[words.index("--output_dir") + 1] = str(tmp_path / "json")
    words.remove("--eval")
    assert finetune.main(words) == 0
    made = card(tmp_path / "json")["training"]
    assert isinstance(made, dict)
    assert made["data"] == shipped["data"]
    assert made["hyperparameters"] == shipped["hyperparameters"]
    for which in ("base", "adapter"):
        assert made["loss"][which] == pytest.approx(shipped["loss"][which], rel=0.05)
