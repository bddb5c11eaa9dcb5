"""What the peers are given: the base, and adapters that are made once and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from platformdirs import user_cache_path

from bench.adapters import NOISE, WEIGHTS, make_adapters
from bench.options import Options
from bench.peers.base import BenchFixtures, PeerError
from model.config.settings import APP_NAME
from model.default_model import ensure_embedded
from model.types import ModelFolderError

CHECKOUT = Path(__file__).parents[1]
ADAPTERS = 12


def prepare(options: Options, scratch: Path) -> BenchFixtures:
    """The stage for these options; `scratch` is a folder that goes away with the measurement.

    Raises:
        PeerError: there is no base to measure with.
    """
    cache = user_cache_path(APP_NAME)
    base = options.base_model or _embedded(cache)
    # Made files are found again by what they were made of.
    kept = cache / "bench" / fingerprint(base, options.adapter)
    names = make_adapters(options.adapter, kept / "adapters", ADAPTERS)
    threads = os.cpu_count() or 1
    return BenchFixtures(base, kept / "adapters", tuple(names), kept, scratch, threads)


def embedded_stage(scratch: Path) -> BenchFixtures:
    """The embedded default and the adapters that the project ships."""
    base = _embedded(user_cache_path(APP_NAME))
    return BenchFixtures(base, CHECKOUT / "adapters", (), scratch, scratch, os.cpu_count() or 1)


def fingerprint(base: Path, adapter: Path | None = None) -> str:
    """Twelve hex digits that change with the base's files and the adapter's weights."""
    digest = hashlib.sha256(repr(NOISE).encode())
    for file in sorted(base.iterdir()):
        facts = file.stat()
        digest.update(f"{base} {file.name} {facts.st_size} {facts.st_mtime_ns}".encode())
    if adapter:
        digest.update((adapter / WEIGHTS).read_bytes())
    return digest.hexdigest()[:12]


def _embedded(cache: Path) -> Path:
    try:
        return ensure_embedded(cache, lambda phase, _: print(f"{phase} …", file=sys.stderr))
    except ModelFolderError as error:
        raise PeerError(str(error)) from error
