"""The shipped adapters are what their own commands make."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from training.events import Event, HeldOut, Step
from training.interrupt import StopRequest
from training.options import read_options
from training.run import StoppedError, fine_tune

ADAPTERS = ("lighthouse", "json", "xiaodeng")
STEPS = 12


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
def test_the_same_command_makes_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default_folder: Path
) -> None:
    """Up to what another processor rounds otherwise. The first steps tell: by then the loss has
    fallen to a third, and each step builds on those before it."""
    monkeypatch.chdir(CHECKOUT)
    folder = CHECKOUT / "adapters" / "json"
    words = shlex.split(card(folder)["training"]["command"])[2:]  # type: ignore[index]
    words[words.index("--output_dir") + 1] = str(tmp_path / "json")
    # With two threads it takes twice as long beside other tests.
    options = read_options([*words, "--threads", "1"])
    stop, told = StopRequest(), list[Event]()

    def hear(event: Event) -> None:
        told.append(event)
        stop.requested |= isinstance(event, Step) and event.step == STEPS

    with pytest.raises(StoppedError):
        fine_tune(options, hear, stop)
    shipped = json.loads((folder / "training.json").read_text("utf-8"))
    base = card(folder)["training"]["loss"]["base"]  # type: ignore[index]
    assert [e.loss for e in told if isinstance(e, HeldOut)][:1] == [pytest.approx(base, rel=0.01)]
    losses = [event.loss for event in told if isinstance(event, Step)][:STEPS]
    assert losses == [pytest.approx(loss, rel=0.05) for _, loss in shipped["steps"][:STEPS]]
    assert losses[-1] < losses[0] / 3
