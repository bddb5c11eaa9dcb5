"""Engines over the tiny model, with and without a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.model.engine.running import CACHE_BYTES, Running, running


@pytest.fixture
def caching(tiny_folder: Path, tiny_adapters: Path) -> Iterator[Running]:
    """An engine with an empty cache."""
    with running(tiny_folder, tiny_adapters, cache_bytes=CACHE_BYTES) as engine:
        yield engine


@pytest.fixture(scope="module")
def fresh(tiny_folder: Path, tiny_adapters: Path) -> Iterator[Running]:
    """An engine that reuses nothing."""
    with running(tiny_folder, tiny_adapters) as engine:
        yield engine
