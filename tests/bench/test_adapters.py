"""Twelve adapters that cost the same and are not the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from safetensors.torch import load_file

from bench.adapters import WEIGHTS, make_adapters
from model.config.settings import CHECKOUT

LIGHTHOUSE = CHECKOUT / "adapters" / "lighthouse"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    assert make_adapters(LIGHTHOUSE, folder, 12)[:2] == ["lighthouse-00", "lighthouse-01"]
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_all_twelve_differ(made: Path) -> None:
    digests = {digest(file) for file in made.glob(f"*/{WEIGHTS}")}
    assert len(digests) == 12


def test_the_first_is_the_shipped_one(made: Path) -> None:
    assert digest(made / "lighthouse-00" / WEIGHTS) == digest(LIGHTHOUSE / WEIGHTS)


def test_names_shapes_and_types_stay_and_values_nearly(made: Path) -> None:
    shipped, changed = load_file(LIGHTHOUSE / WEIGHTS), load_file(made / "lighthouse-11" / WEIGHTS)
    assert shipped.keys() == changed.keys()
    for name, weight in shipped.items():
        other = changed[name]
        assert (other.shape, other.dtype) == (weight.shape, weight.dtype)
        assert 0 < (other.float() - weight.float()).std() < 0.2 * weight.float().std()


def test_made_again_they_are_the_same(made: Path, tmp_path: Path) -> None:
    make_adapters(LIGHTHOUSE, tmp_path, 3)
    again = tmp_path / "lighthouse-02" / WEIGHTS
    assert digest(again) == digest(made / "lighthouse-02" / WEIGHTS)


def test_what_is_there_is_not_made_again(made: Path) -> None:
    file = made / "lighthouse-05" / WEIGHTS
    before = file.stat().st_mtime_ns
    make_adapters(LIGHTHOUSE, made, 12)
    assert file.stat().st_mtime_ns == before
