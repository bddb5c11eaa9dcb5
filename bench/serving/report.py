"""Medians and ratios of the measured values, as a table, as JSON and as a bar chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.common import format_number, format_ratio, format_table
from bench.peers.base import THIS_PROGRAM
from bench.serving.workloads import DELAY, SPEED, Metric

# Two metrics whose quotient is what many adapters cost a peer: with adapters over without.
ADAPTERS_COST = ("twelve_adapters/together", "twelve_base/together")
COST_TITLE = "12 adapters over base alone"
PANELS = {SPEED: "Tokens a second (more is better)", DELAY: "Seconds (less is better)"}
COLOURS = {
    "ours": "#0b6e4f",
    "llama.cpp": "#c8553d",
    "vllm": "#588b8b",
    "hf": "#f0a868",
    "bnb": "#9a8c98",
}
BAR_HEIGHT = 0.16  # of the distance between two groups
GROUP_INCHES = 1.05


@dataclass
class Results:
    """Every value of every metric by peer, in the order of the rounds."""

    peers: list[str]
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, metric: str, peer: str, value: float) -> None:
        self.samples.setdefault((metric, peer), []).append(value)

    def median(self, metric: str, peer: str) -> float | None:
        """None if the peer was not measured."""
        values = self.samples.get((metric, peer))
        return median(values) if values else None

    def ratio(self, metric: Metric, peer: str) -> float | None:
        """How many times as good as `peer` this program is: over 1 where it is better."""
        own, other = self.median(metric.key, THIS_PROGRAM), self.median(metric.key, peer)
        if own is None or other is None:
            return None
        return own / other if metric.more_is_better else other / own

    def adapters_cost(self, peer: str) -> float | None:
        """Throughput on twelve adapters over throughput on the base, of one peer."""
        adapters, base = (self.median(key, peer) for key in ADAPTERS_COST)
        return None if adapters is None or base is None else adapters / base

    def others(self) -> list[str]:
        return [peer for peer in self.peers if peer != THIS_PROGRAM]


def table(results: Results, metrics: Sequence[Metric]) -> str:
    """A line for each metric: the peers' medians, then the ratio to each of the others."""
    others = results.others()
    rows = [["", "", *results.peers, *(f"vs {peer}" for peer in others)]]
    for metric in metrics:
        medians = [format_number(results.median(metric.key, peer)) for peer in results.peers]
        ratios = [format_ratio(results.ratio(metric, peer)) for peer in others]
        rows.append([metric.title, metric.unit, *medians, *ratios])
    costs = [results.adapters_cost(peer) for peer in results.peers]
    if any(costs):
        rows.append([COST_TITLE, "", *map(format_number, costs), *("" for _ in others)])
    return format_table(rows, text_columns=2)


def to_json(results: Results, metrics: Sequence[Metric]) -> dict[str, Any]:
    """The same figures for programs, with every sample."""
    return {
        "metrics": [_metric_json(results, metric) for metric in metrics],
        "twelve_adapters_over_base": _by_peer(results.adapters_cost, results.peers),
    }


def _metric_json(results: Results, metric: Metric) -> dict[str, Any]:
    samples = {peer: results.samples.get((metric.key, peer), []) for peer in results.peers}
    return {
        "key": metric.key,
        "title": metric.title,
        "unit": metric.unit,
        "medians": _by_peer(lambda peer: results.median(metric.key, peer), results.peers),
        "times_as_good": _by_peer(lambda peer: results.ratio(metric, peer), results.others()),
        "samples": {peer: [round(v, 4) for v in found] for peer, found in samples.items() if found},
    }


def _by_peer(value_of: Callable[[str], float | None], peers: Sequence[str]) -> dict[str, float]:
    values = {peer: value_of(peer) for peer in peers}
    return {peer: round(value, 4) for peer, value in values.items() if value is not None}


def draw_chart(results: Results, metrics: Sequence[Metric], target: Path, caption: str) -> None:
    """Draw the medians as bars: a panel for each unit, a group for each metric, a bar for each
    peer. `caption` names the machine."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("Agg")  # no window
    by_unit = {unit: [m for m in metrics if m.unit == unit] for unit in PANELS}
    shown = {unit: found for unit, found in by_unit.items() if found}
    heights = [len(found) for found in shown.values()]
    figure, axes = pyplot.subplots(
        len(shown), figsize=(9, 1.4 + GROUP_INCHES * sum(heights)), height_ratios=heights,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis, (unit, found) in zip(axes[:, 0], shown.items(), strict=True):
        _draw_panel(axis, results, found, PANELS[unit])
    # Beside the panels, because bars may reach any corner of them; each peer once.
    bars = {bar.get_label(): bar for axis in axes[:, 0] for bar in axis.containers}
    figure.legend(bars.values(), bars.keys(), loc="outside upper right", ncols=5, frameon=False)
    figure.supxlabel(caption, fontsize=8)
    figure.savefig(target, dpi=150)
    pyplot.close(figure)


def _draw_panel(axis: Any, results: Results, metrics: Sequence[Metric], title: str) -> None:
    for place, peer in enumerate(results.peers):
        offset = (place - (len(results.peers) - 1) / 2) * BAR_HEIGHT
        medians = [results.median(metric.key, peer) for metric in metrics]
        measured = [(row + offset, value) for row, value in enumerate(medians) if value is not None]
        if measured:
            rows, values = zip(*measured, strict=True)
            height, colour = BAR_HEIGHT * 0.9, COLOURS.get(peer)
            bars = axis.barh(rows, values, height=height, color=colour, label=peer)
            axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
    axis.set_yticks(range(len(metrics)), [metric.title for metric in metrics], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
