"""Adapters enough for many users: the shipped one, slightly changed in as many ways.

The copies have its rank and its layers, so they cost what it costs, but weights (and so a digest)
of their own: a server cannot take two of them for one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

WEIGHTS = "adapter_model.safetensors"
NOISE = 0.1  # of each tensor's own spread: replies stay sensible, and differ


def make_adapters(source: Path, folder: Path, count: int) -> list[str]:
    """Write `count` variants of the adapter `source` into `folder`; their names in order.

    The first is `source` itself, so that what is measured is also what is shipped.
    """
    names = [f"{source.name}-{number:02}" for number in range(count)]
    for number, name in enumerate(names):
        target = folder / name
        if not (target / WEIGHTS).is_file():
            shutil.copytree(source, target, dirs_exist_ok=True)
            if number:
                _disturb(target / WEIGHTS, seed=number)
    return names


def _disturb(path: Path, seed: int) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name, weight in load_file(path).items():
        noise = torch.randn(weight.shape, generator=generator)
        spread = weight.float().std(unbiased=False)
        changed[name] = (weight.float() + NOISE * spread * noise).to(weight.dtype)
    save_file(changed, path, metadata={"format": "pt"})
