"""Medians, ratios that say what they should in both directions, and the table."""

from __future__ import annotations

import json

import pytest

from bench.report import Results, document, table
from bench.workloads import DELAY, SPEED, Metric

FAST = Metric("one/base", "1 user, base", SPEED)
SOON = Metric("four/first", "4 users: first token", DELAY)


def results() -> Results:
    found = Results(["ours", "hf", "vllm"])
    for value in (300.0, 100.0, 200.0):
        found.add(FAST.key, "ours", value)
    for value in (40.0, 60.0):
        found.add(FAST.key, "hf", value)
    found.add(SOON.key, "ours", 0.2)
    found.add(SOON.key, "hf", 0.05)
    return found


def test_medians_are_of_all_rounds() -> None:
    assert results().median(FAST.key, "ours") == 200
    assert results().median(FAST.key, "hf") == 50
    assert results().median(FAST.key, "vllm") is None


def test_a_ratio_above_one_means_ours_is_better_whatever_the_unit() -> None:
    assert results().ratio(FAST, "hf") == 4
    assert results().ratio(SOON, "hf") == 0.25
    assert results().ratio(FAST, "vllm") is None


def test_the_cost_of_adapters_is_a_peers_own() -> None:
    found = results()
    found.add("twelve_base/together", "hf", 100)
    assert found.adapters_cost("hf") is None
    found.add("twelve_adapters/together", "hf", 80)
    assert found.adapters_cost("hf") == 0.8


def test_the_table_has_a_line_a_metric_and_columns_in_line() -> None:
    head, first, second = table(results(), [FAST, SOON]).splitlines()
    assert head.split() == ["ours", "hf", "vllm", "vs", "hf", "vs", "vllm"]
    assert first.split()[-6:] == ["tokens/s", "200", "50.0", "-", "4.00x", "-"]
    assert second.split()[-6:] == ["s", "0.200", "0.050", "-", "0.25x", "-"]
    for column, word in enumerate(("ours", "hf", "vllm")):
        value = first.split()[-5:][column]
        assert head.index(word) + len(word) == first.index(value, first.index("/s")) + len(value)


def test_the_table_tells_the_cost_of_adapters_where_it_is_known() -> None:
    found = results()
    found.add("twelve_base/together", "ours", 100)
    found.add("twelve_adapters/together", "ours", 90)
    assert table(found, [FAST]).splitlines()[-1].split()[-3:] == ["0.900", "-", "-"]


def test_the_document_is_json_with_every_sample() -> None:
    told = json.loads(json.dumps(document(results(), [FAST])))
    [metric] = told["metrics"]
    assert metric["samples"] == {"ours": [300, 100, 200], "hf": [40, 60]}
    assert metric["medians"] == {"ours": 200, "hf": 50}
    assert metric["times_as_good"] == {"hf": 4}


@pytest.mark.parametrize(
    ("value", "shown"), [(123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123")]
)
def test_figures_keep_three_digits(value: float, shown: str) -> None:
    found = Results(["ours"])
    found.add(FAST.key, "ours", value)
    assert table(found, [FAST]).split()[-1] == shown
