"""Medians and ratios of what was measured, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from bench.workloads import Metric

OURS = "ours"
MISSING = "-"
# Metrics whose quotient says what many adapters cost a peer: with adapters over without.
COST = ("twelve_adapters/together", "twelve_base/together")
COST_TITLE = "12 adapters over base alone"


@dataclass
class Results:
    """Every value of every metric by peer, in the order of the rounds."""

    peers: list[str]
    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, metric: str, peer: str, value: float) -> None:
        self.samples.setdefault((metric, peer), []).append(value)

    def median(self, metric: str, peer: str) -> float | None:
        """None where the peer was not measured."""
        values = self.samples.get((metric, peer))
        return median(values) if values else None

    def ratio(self, metric: Metric, peer: str) -> float | None:
        """How many times as good as `peer` we are: more than 1 where we are faster."""
        ours, theirs = self.median(metric.key, OURS), self.median(metric.key, peer)
        if ours is None or theirs is None:
            return None
        return ours / theirs if metric.more_is_better else theirs / ours

    def adapters_cost(self, peer: str) -> float | None:
        """Throughput on twelve adapters over throughput on the base, of one peer."""
        adapters, base = (self.median(key, peer) for key in COST)
        return None if adapters is None or base is None else adapters / base

    def others(self) -> list[str]:
        return [peer for peer in self.peers if peer != OURS]


def table(results: Results, metrics: Sequence[Metric]) -> str:
    """A line a metric: the peers' medians, then how many times as good as each we are."""
    others = results.others()
    rows = [["", "", *results.peers, *(f"vs {peer}" for peer in others)]]
    for metric in metrics:
        medians = [number(results.median(metric.key, peer)) for peer in results.peers]
        ratios = [times(results.ratio(metric, peer)) for peer in others]
        rows.append([metric.title, metric.unit, *medians, *ratios])
    costs = [results.adapters_cost(peer) for peer in results.peers]
    if any(costs):
        rows.append([COST_TITLE, "", *(number(cost) for cost in costs), *("" for _ in others)])
    return "\n".join(aligned(rows))


def document(results: Results, metrics: Sequence[Metric]) -> dict[str, Any]:
    """The same for programs, with every sample."""
    return {
        "metrics": [_entry(results, metric) for metric in metrics],
        "twelve_adapters_over_base": _present(results.adapters_cost, results.peers),
    }


def _entry(results: Results, metric: Metric) -> dict[str, Any]:
    samples = {peer: results.samples.get((metric.key, peer)) for peer in results.peers}
    return {
        "key": metric.key,
        "title": metric.title,
        "unit": metric.unit,
        "medians": _present(lambda peer: results.median(metric.key, peer), results.peers),
        "times_as_good": _present(lambda peer: results.ratio(metric, peer), results.others()),
        "samples": {peer: _rounded(values) for peer, values in samples.items() if values},
    }


def _present(value_of: Any, peers: Sequence[str]) -> Mapping[str, float]:
    values = {peer: value_of(peer) for peer in peers}
    return {peer: round(value, 4) for peer, value in values.items() if value is not None}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]


def number(value: float | None) -> str:
    """Three digits that say something: 123, 12.3, 0.123."""
    if value is None:
        return MISSING
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{decimals}f}"


def times(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}x"


def aligned(rows: Sequence[Sequence[str]], words: int = 2) -> list[str]:
    """The rows as lines, columns in line: the first so many are words, the others figures."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(_padded(row, widths, words)).rstrip() for row in rows]


def _padded(row: Sequence[str], widths: Sequence[int], words: int) -> list[str]:
    """Words to the left, figures to the right."""
    cells = list(zip(row, widths, strict=True))
    left = [cell.ljust(width) for cell, width in cells[:words]]
    return left + [cell.rjust(width) for cell, width in cells[words:]]
