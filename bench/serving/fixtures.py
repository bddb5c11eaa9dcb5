"""The base and the adapters that peers serve; what is made for them stays in the cache folder.

A benchmark needs an adapter for each of many users: copies of the shipped one with noise on their
weights. They keep its rank and layers, so they cost the same, but each has a digest of its own, so
no server can take two of them for one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path

from bench.common import PeerError, log
from bench.peers.base import BenchFixtures
from bench.peers.openai_peers import ThisProgram
from model.config.settings import APP_NAME, CHECKOUT
from model.default_model import ensure_embedded
from model.errors import ModelFolderError

ADAPTERS = 12
WEIGHTS = "adapter_model.safetensors"
NOISE = 0.1  # of each tensor's standard deviation: replies stay sensible, and differ


def make_fixtures(options: Namespace, scratch: Path) -> BenchFixtures:
    """The base of these options and twelve adapters; `scratch` lasts as long as the benchmark.

    Raises:
        PeerError: the embedded default cannot be fetched.
    """
    base = options.base_model or _embedded()
    cache = user_cache_path(APP_NAME) / "bench" / cache_key(base, options.adapter)
    names = make_adapters(options.adapter, cache / "adapters", ADAPTERS)
    return BenchFixtures(
        base, cache / "adapters", tuple(names), cache, scratch, os.cpu_count() or 1
    )


@contextmanager
def running_app(*flags: str, program: Sequence[str] = ("app.py",)) -> Iterator[ThisProgram]:
    """Serves the embedded default and the shipped adapters, with an empty data folder.

    Raises:
        PeerError: the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as folder:
        scratch, threads = Path(folder), os.cpu_count() or 1
        fixtures = BenchFixtures(_embedded(), CHECKOUT / "adapters", (), scratch, scratch, threads)
        server = ThisProgram(fixtures, flags, program)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def cache_key(base: Path, adapter: Path | None = None) -> str:
    """Twelve hex digits that change with the base's files and with the adapter's weights."""
    digest = hashlib.sha256(repr(NOISE).encode())
    for file in sorted(base.iterdir()):
        facts = file.stat()
        digest.update(f"{base} {file.name} {facts.st_size} {facts.st_mtime_ns}".encode())
    if adapter:
        digest.update((adapter / WEIGHTS).read_bytes())
    return digest.hexdigest()[:12]


def make_adapters(source: Path, folder: Path, count: int) -> list[str]:
    """Write `count` variants of the adapter `source` into `folder`; returns their names in order.

    The first one is `source` itself, so that the shipped adapter is measured, too.
    """
    names = [f"{source.name}-{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        target = folder / name
        if not (target / WEIGHTS).is_file():
            shutil.copytree(source, target, dirs_exist_ok=True)
            if number:
                _add_noise(target / WEIGHTS, seed=number)
    return names


def _add_noise(path: Path, seed: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(seed)
    noisy = {}
    for name, weight in load_file(path).items():
        noise = torch.randn(weight.shape, generator=generator)
        spread = weight.float().std(unbiased=False)
        noisy[name] = (weight.float() + NOISE * spread * noise).to(weight.dtype)
    save_file(noisy, path, metadata={"format": "pt"})


def _embedded() -> Path:
    try:
        return ensure_embedded(user_cache_path(APP_NAME), lambda phase, _: log(f"{phase} …"))
    except ModelFolderError as error:
        raise PeerError(str(error)) from error
