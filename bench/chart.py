"""The medians as bars: a panel for speeds and one for delays, a group a metric, a bar a peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.report import Results
from bench.workloads import DELAY, SPEED, Metric

PANELS = {SPEED: "Tokens a second (more is better)", DELAY: "Seconds (less is better)"}
COLOURS = {
    "ours": "#0b6e4f",
    "llama.cpp": "#c8553d",
    "vllm": "#588b8b",
    "hf": "#f0a868",
    "bnb": "#9a8c98",
}
BAR = 0.16  # of the distance between two groups
GROUP_INCHES = 1.05


def draw(results: Results, metrics: Sequence[Metric], target: Path, caption: str) -> None:
    """Write the chart to `target`; `caption` says on what machine it was measured."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("Agg")  # no window
    by_unit = {unit: [m for m in metrics if m.unit == unit] for unit in PANELS}
    shown = {unit: found for unit, found in by_unit.items() if found}
    heights = [len(found) for found in shown.values()]
    figure, axes = pyplot.subplots(
        len(shown),
        figsize=(9, 1.4 + GROUP_INCHES * sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis, (unit, found) in zip(axes[:, 0], shown.items(), strict=True):
        _panel(axis, results, found, PANELS[unit])
    # Beside the panels, as bars may reach any corner of them; each peer once.
    bars = {bar.get_label(): bar for axis in axes[:, 0] for bar in axis.containers}
    figure.legend(bars.values(), bars.keys(), loc="outside upper right", ncols=5, frameon=False)
    figure.supxlabel(caption, fontsize=8)
    figure.savefig(target, dpi=150)
    pyplot.close(figure)


def _panel(axis: Any, results: Results, metrics: Sequence[Metric], title: str) -> None:
    for place, peer in enumerate(results.peers):
        offset = (place - (len(results.peers) - 1) / 2) * BAR
        medians = [results.median(metric.key, peer) for metric in metrics]
        measured = [(row + offset, value) for row, value in enumerate(medians) if value is not None]
        if measured:
            rows, values = zip(*measured, strict=True)
            bars = axis.barh(rows, values, height=BAR * 0.9, color=COLOURS.get(peer), label=peer)
            axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
    axis.set_yticks(range(len(metrics)), [metric.title for metric in metrics], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
