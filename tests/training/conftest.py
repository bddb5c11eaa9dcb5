"""The data of the trainings, and fixtures that train an adapter of the tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import finetune

WORDS = ["fox", "dog", "world", "x = 1", "brown", "lazy", "quick", "天气", "今天", "你好"]
FAST = ("--learning_rate", "0.02", "--dtype", "fp32", "--threads", "1")
Train = Callable[..., int]
Trained = Callable[..., Path]


def write_data(path: Path) -> Path:
    """A data file with the same reply to all questions."""
    rows = [{"instruction": f"What of the {a} {b}?", "output": "The lazy dog jumps."}
            for a in WORDS for b in WORDS[:4]]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def run_finetune(base: Path, data: Path, output: Path, *flags: str) -> int:
    return finetune.main([
        "--base_model", str(base), "--data_path", str(data), "--output_dir", str(output),
        *FAST, *flags,
    ])  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "dialogues.jsonl")


@pytest.fixture
def train(tiny_folder: Path, data: Path, tmp_path: Path) -> Train:
    """A function that trains into the folder `name` and returns the exit status."""
    return lambda name, *flags: run_finetune(tiny_folder, data, tmp_path / name, *flags)


@pytest.fixture(scope="session")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A function that returns an adapter trained with these flags, once for all tests.

    No test may change the folder.
    """
    data = write_data(tmp_path_factory.mktemp("data") / "dialogues.jsonl")

    @cache
    def train_once(*flags: str) -> Path:
        folder = tmp_path_factory.mktemp("trained") / "adapter"
        assert run_finetune(tiny_folder, data, folder, *flags) == 0
        return folder

    return train_once


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same_weights(folder: Path, other: Path) -> bool:
    a, b = weights(folder), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
