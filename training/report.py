"""Describes a trained adapter in its folder: README, card, losses as JSON and PNG, evaluation."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.folders.adapter_files import CARD
from model.text.tokenizer_files import CHAT_TEMPLATE
from model.translations import LocalizedText
from training.generation import Comparison
from training.hyperparameters import Hyperparameters

README, LOSSES, CURVE, EVALUATION = "README.md", "training.json", "loss.png", "evaluation.md"
LIBRARIES = ("torch", "transformers", "peft")
MAX_CELL = 200  # characters of a reply in a table


@dataclass(frozen=True)
class Origin:
    """What an adapter was made from.

    `fingerprint` is a sample of the base's weights. `template` is None for one in the adapter's
    folder. `opens_thought`: see `PromptTemplate`.
    """

    base_model: str
    fingerprint: Sequence[float]
    template: str | None
    description: str
    data_name: str
    data_digest: str
    dtype: str
    opens_thought: bool = True


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run.

    Losses are means over tokens, in nats. `history` has (step, loss) of each step, `measured`
    (step, loss) on the held-out chats. `learned` and `held_out` count chats; `steps` counts the
    steps of the whole training.
    """

    origin: Origin
    hyperparameters: Hyperparameters
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
        """On the held-out chats, of base and adapter; None if no chats are held out."""
        if self.base_loss is None or self.adapter_loss is None:
            return None
        return self.base_loss, self.adapter_loss

    @property
    def loss_reduction(self) -> float | None:
        """By which share of the base's loss the adapter lowers the held-out loss."""
        return 1 - self.losses[1] / self.losses[0] if self.losses and self.losses[0] else None

    def to_json(self) -> dict[str, Any]:
        """What the adapter's card says about its training."""
        return {
            "data": {"name": self.origin.data_name, "sha256": self.origin.data_digest},
            "hyperparameters": self.hyperparameters.to_json(),
            "dtype": self.origin.dtype,
            "chats": {"learned": self.learned, "held_out": self.held_out},
            "steps": self.steps,
            "loss": {"base": self.base_loss, "adapter": self.adapter_loss},
            "example": asdict(self.example) if self.example else None,
            "command": self.command,
            "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
        }


def write_results(folder: Path, result: TrainingResult) -> None:
    """Writes the files beside the weights: card, losses and README."""
    origin = result.origin
    card = {
        "template": origin.template,
        **({} if origin.opens_thought else {"opens_thought": False}),
        "description": origin.description,
        "base_model": origin.base_model,
        "fingerprint": list(origin.fingerprint),
        "training": result.to_json(),
    }
    _write_json(folder / CARD, card)
    _write_json(folder / LOSSES, {"steps": result.history, "held_out": result.measured})
    (folder / README).write_text(readme(folder.resolve().parent.name, result), encoding="utf-8")
    draw_losses(folder / CURVE, result)


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def readme(name: str, result: TrainingResult) -> str:
    """The adapter's README, in Markdown."""
    origin, used = result.origin, result.hyperparameters
    rows = {
        "base": f"`{origin.base_model}`, known by a sample of its weights in `{CARD}`",
        "data": f"`{origin.data_name}`, sha256 `{origin.data_digest}`",
        "chats": f"{result.learned} learned, {result.held_out} held out",
        "template": f"`{origin.template or CHAT_TEMPLATE}`",
        "LoRA": f"rank {used.lora_r}, alpha {used.lora_alpha}, dropout "
        f"{used.lora_dropout:g}, {', '.join(used.lora_target_modules)}",
        "training": f"{used.num_epochs:g} epochs, {result.steps} steps of {used.batch_size} "
        f"chats, learning rate {used.learning_rate:g} with {used.warmup_steps} steps of "
        f"warm-up and a cosine, seed {used.seed}, base in {origin.dtype}; loss on "
        f"{'everything' if used.train_on_inputs else 'the replies only'}",
        "held-out loss": losses_text(result),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    parts = [
        f"# {name}", origin.description, f"| | |\n|---|---|\n{table}",
        f"![Loss]({CURVE})", _example_table(result.example),
        f"Made by:\n\n```\n{result.command}\n```",
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def losses_text(result: TrainingResult) -> LocalizedText:
    """The held-out losses in a few words."""
    if result.losses is None:
        return LocalizedText("losses_not_measured")
    base, adapter = result.losses
    change = f" ({-result.loss_reduction:+.0%})" if result.loss_reduction is not None else ""
    return LocalizedText("losses", {"base": base, "adapter": adapter, "change": change})


def _example_table(example: Comparison | None) -> str:
    if example is None:
        return ""
    return (
        "An example:\n\n| asked | base | adapter |\n|---|---|---|\n"
        f"{_row(example.question, example.base, example.adapter)}"
    )


def evaluation_table(
    name: str, base: str, losses: tuple[float, float] | None, comparisons: Sequence[Comparison]
) -> str:
    """The evaluation of the adapter `name` beside `base`, in Markdown.

    Args:
        losses: on the held-out chats, in nats a token, of base and adapter.
        comparisons: one for each of these chats.
    """
    lines = [f"# {name}, measured beside {base}", ""]
    if losses is not None:
        base_loss, adapter_loss = losses
        change = f"{adapter_loss / base_loss - 1:+.0%}" if base_loss else ""
        lines += [
            f"| held-out loss, {len(comparisons)} chats | nats a token |", "|---|---|",
            f"| {base} | {base_loss:.3f} |",
            f"| {name} | {adapter_loss:.3f} ({change}) |" if base_loss else "",
            "",
        ]  # fmt: skip
    lines += [f"| asked | data | {base} | {name} |", "|---|---|---|---|"]
    lines += [_row(c.question, c.wanted, c.base, c.adapter) for c in comparisons]
    return "\n".join(lines) + "\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(map(markdown_cell, cells)) + " |"


def markdown_cell(text: str) -> str:
    """Text for a Markdown table: shortened, on one line, with markup escaped."""
    short = text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]} …"
    for mark in "\\`*_[]<>|#":
        short = short.replace(mark, f"\\{mark}" if mark != "<" else "&lt;")
    return "<br>".join(short.splitlines())


def draw_losses(path: Path, result: TrainingResult) -> None:
    """Draws the losses over the steps as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if result.history:
        axes.plot(*zip(*result.history, strict=True), color="0.6", linewidth=1, label="learned")
    if result.measured:
        axes.plot(*zip(*result.measured, strict=True), color="C1", marker="o", label="held out")
    axes.set(xlabel="step", ylabel="loss (nats a token)", ylim=(0, None))
    axes.grid(color="0.9")
    axes.legend()
    FigureCanvasAgg(figure).print_png(path)  # type: ignore[no-untyped-call]
