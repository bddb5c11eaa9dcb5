"""What a training has come to, and the files that tell it: README, card, figures, curve."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.folders.adapter_files import CARD
from model.translations import LocalizedText
from training.generation import Comparison
from training.hyperparameters import Hyperparameters

README, FIGURES, CURVE = "README.md", "training.json", "loss.png"
LIBRARIES = ("torch", "transformers", "peft")
CELL = 200  # letters of a reply in a table


@dataclass(frozen=True)
class Origin:
    """What the adapter was made from. `fingerprint` is a sample of the base's weights."""

    base_model: str
    fingerprint: Sequence[float]
    template: str
    description: str
    data_name: str
    data_digest: str
    dtype: str


@dataclass(frozen=True)
class TrainingResult:
    """Losses are a token's mean in nats: `history` has (step, loss) of each step, `measured` those
    of the held-out chats. `learned` and `held_out` count chats; `steps` were done in all."""

    origin: Origin
    recipe: Hyperparameters
    learned: int
    held_out: int
    steps: int
    base_loss: float | None
    adapter_loss: float | None
    history: Sequence[tuple[int, float]]
    measured: Sequence[tuple[int, float]]
    example: Comparison | None
    command: str

    @property
    def losses(self) -> tuple[float, float] | None:
        """On the held-out chats, of the base and of the adapter; None if nothing is held out."""
        if self.base_loss is None or self.adapter_loss is None:
            return None
        return self.base_loss, self.adapter_loss

    @property
    def loss_reduction(self) -> float | None:
        """By which share of the base's the held-out loss has fallen."""
        return 1 - self.losses[1] / self.losses[0] if self.losses and self.losses[0] else None

    def to_json(self) -> dict[str, Any]:
        """For the card: what a reader of the adapter may want to know."""
        return {
            "data": {"name": self.origin.data_name, "sha256": self.origin.data_digest},
            "hyperparameters": self.recipe.to_json(),
            "dtype": self.origin.dtype,
            "chats": {"learned": self.learned, "held_out": self.held_out},
            "steps": self.steps,
            "loss": {"base": self.base_loss, "adapter": self.adapter_loss},
            "example": asdict(self.example) if self.example else None,
            "command": self.command,
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        }


def write_results(folder: Path, outcome: TrainingResult) -> None:
    """Everything beside the weights."""
    origin = outcome.origin
    card = {
        "template": origin.template,
        "description": origin.description,
        "base_model": origin.base_model,
        "fingerprint": list(origin.fingerprint),
        "training": outcome.to_json(),
    }
    _write_json(folder / CARD, card)
    _write_json(folder / FIGURES, {"steps": outcome.history, "held_out": outcome.measured})
    (folder / README).write_text(readme(folder.resolve().parent.name, outcome), encoding="utf-8")
    draw(folder / CURVE, outcome)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def readme(name: str, outcome: TrainingResult) -> str:
    """The adapter's README, in Markdown."""
    origin, recipe = outcome.origin, outcome.recipe
    facts = {
        "base": f"`{origin.base_model}`, known by a sample of its weights in `{CARD}`",
        "data": f"`{origin.data_name}`, sha256 `{origin.data_digest}`",
        "chats": f"{outcome.learned} learned, {outcome.held_out} held out",
        "template": f"`{origin.template}`",
        "LoRA": f"rank {recipe.lora_r}, alpha {recipe.lora_alpha}, dropout "
        f"{recipe.lora_dropout:g}, {', '.join(recipe.lora_target_modules)}",
        "training": f"{recipe.num_epochs:g} epochs, {outcome.steps} steps of {recipe.batch_size} "
        f"chats, learning rate {recipe.learning_rate:g} with {recipe.warmup_steps} steps of "
        f"warm-up and a cosine, seed {recipe.seed}, base in {origin.dtype}; loss on "
        f"{'everything' if recipe.train_on_inputs else 'the replies only'}",
        "held-out loss": losses(outcome),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    parts = [
        f"# {name}", origin.description, f"| | |\n|---|---|\n{table}",
        f"![Loss]({CURVE})", _example(outcome.example), f"Made by:\n\n```\n{outcome.command}\n```",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def losses(outcome: TrainingResult) -> LocalizedText:
    """The held-out losses, in a few words."""
    if outcome.losses is None:
        return LocalizedText("losses_not_measured")
    base, adapter = outcome.losses
    change = f" ({-outcome.loss_reduction:+.0%})" if outcome.loss_reduction is not None else ""
    return LocalizedText("losses", {"base": base, "adapter": adapter, "change": change})


def _example(asked: Comparison | None) -> str:
    if asked is None:
        return ""
    return (
        "An example:\n\n| asked | base | adapter |\n|---|---|---|\n"
        "| " + " | ".join(map(markdown_cell, (asked.question, asked.base, asked.adapter))) + " |"
    )


def markdown_cell(text: str) -> str:
    """Text in a Markdown table: on one line, and none of it markup."""
    short = text if len(text) <= CELL else f"{text[:CELL]} …"
    for mark in "\\`*_[]<>|#":
        short = short.replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return "<br>".join(short.splitlines())


def draw(path: Path, outcome: TrainingResult) -> None:
    """The losses over the steps as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if outcome.history:
        axes.plot(*zip(*outcome.history, strict=True), color="0.6", linewidth=1, label="learned")
    if outcome.measured:
        axes.plot(*zip(*outcome.measured, strict=True), color="C1", marker="o", label="held out")
    axes.set(xlabel="step", ylabel="loss (nats a token)", ylim=(0, None))
    axes.grid(color="0.9")
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
