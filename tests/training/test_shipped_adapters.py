"""The commands in the shipped adapters' cards reproduce their training."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from training.events import Event, HeldOut, Step
from training.interrupt import StopRequest
from training.options import read_training_options
from training.run import StoppedError, fine_tune

ADAPTERS = ("lighthouse", "json", "xiaodeng")
STEPS = 12


def card(folder: Path) -> dict[str, object]:
    values: dict[str, object] = json.loads((folder / "linly_adapter.json").read_text("utf-8"))
    return values


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_card_has_the_command_and_the_losses_of_its_training(name: str) -> None:
    training = card(CHECKOUT / "adapters" / name)["training"]
    assert isinstance(training, dict)
    words = shlex.split(training["command"])
    assert words[:2] == ["python", "finetune.py"]
    assert words[words.index("--output_dir") + 1] == f"adapters/{name}"
    assert training["loss"]["adapter"] < 0.4 * training["loss"]["base"]


@pytest.mark.real_model
@pytest.mark.slow
def test_the_command_of_a_card_gives_the_same_losses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, default_folder: Path
) -> None:
    """Compares the first steps, up to rounding of other processors: by then the loss has fallen to
    a third, and each step depends on those before it."""
    monkeypatch.chdir(CHECKOUT)
    folder = CHECKOUT / "adapters" / "json"
    words = shlex.split(card(folder)["training"]["command"])[2:]  # type: ignore[index]
    words[words.index("--output_dir") + 1] = str(tmp_path / "json")
    # With two threads, it takes twice as long while other tests run.
    options = read_training_options([*words, "--threads", "1"])
    stop, events = StopRequest(), list[Event]()

    def on_event(event: Event) -> None:
        events.append(event)
        stop.requested |= isinstance(event, Step) and event.step == STEPS

    with pytest.raises(StoppedError):
        fine_tune(options, on_event, stop)
    shipped = json.loads((folder / "training.json").read_text("utf-8"))
    base = card(folder)["training"]["loss"]["base"]  # type: ignore[index]
    assert [e.loss for e in events if isinstance(e, HeldOut)][:1] == [pytest.approx(base, rel=0.01)]
    losses = [event.loss for event in events if isinstance(event, Step)][:STEPS]
    assert losses == [pytest.approx(loss, rel=0.05) for _, loss in shipped["steps"][:STEPS]]
    assert losses[-1] < losses[0] / 3
