"""Cache of quantised weights: restores the same model, never from an old or damaged entry."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from model import weight_cache
from model.folders.model_folder import read_model_folder
from model.folders.weights import read_tensors
from model.layers.llama import Llama
from model.weight_cache import DONE, WeightCache, model_parts
from model.weight_loader import load_model
from tests.tiny_model import make_folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A base with random biases."""
    return with_biases(make_folder(tmp_path / "base", attention_bias=True))


def with_biases(folder: Path) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name, tensor in tensors.items():
        if name.endswith(".bias"):
            tensor.normal_()
    save_file(tensors, file, metadata={"format": "pt"})
    return folder


def load(source: Path, cache: Path, quantization: str = "8bit") -> tuple[Llama, list[float]]:
    """Loads the model through the cache, which writes its entry before this returns."""
    folder = read_model_folder(source)
    shares: list[float] = []
    weight_cache = WeightCache(cache, folder)
    weight_cache.save_later = weight_cache.save  # type: ignore[method-assign]
    model = load_model(
        folder, quantization=quantization, device="cpu", context_length=None,
        progress=shares.append, cache=weight_cache,
    )  # fmt: skip
    return model, shares


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the source was read")

    monkeypatch.setattr("model.weight_loader.read_tensors", refuse)


def assert_same(model: Llama, other: Llama) -> None:
    for (_, parts), (_, others) in zip(model_parts(model), model_parts(other), strict=True):
        assert parts.keys() == others.keys()
        for name, tensor in parts.items():
            assert torch.equal(tensor, others[name]), name


def test_second_start_does_not_read_the_source(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = load(source, tmp_path / "cache")
    assert any(bool(layer.qkv.linear.bias.any()) for layer in first.layers)  # type: ignore[attr-defined]
    forbid_reading(monkeypatch)
    second, shares = load(source, tmp_path / "cache")
    assert_same(first, second)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_changed_source_is_read_again_and_its_old_entry_removed(
    source: Path, tmp_path: Path
) -> None:
    load(source, tmp_path / "cache")
    changed = with_biases(make_folder(tmp_path / "other", seed=5, attention_bias=True))
    shutil.copy(changed / "model.safetensors", source / "model.safetensors")
    model, _ = load(source, tmp_path / "cache")
    assert_same(model, load(changed, tmp_path / "other_cache")[0])
    assert len(list((tmp_path / "cache" / "weights").iterdir())) == 1


def test_two_sources_have_an_entry_each(source: Path, tmp_path: Path) -> None:
    load(source, tmp_path / "cache")
    load(make_folder(tmp_path / "other", seed=5), tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "weights").iterdir())) == 2


@pytest.mark.parametrize("damage", ["torn", "missing", "interrupted"])
def test_damaged_entry_is_not_used(source: Path, tmp_path: Path, damage: str) -> None:
    first, _ = load(source, tmp_path / "cache")
    (entry,) = (tmp_path / "cache" / "weights").iterdir()
    file = entry / "layer-001.safetensors"
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:-7])
    elif damage == "missing":
        file.unlink()
    else:
        (entry / DONE).unlink()
    reloaded, _ = load(source, tmp_path / "cache")
    assert_same(first, reloaded)
    assert_same(first, load(source, tmp_path / "cache")[0])  # the entry was written again


def test_full_disk_means_no_entry_and_no_failure(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(weight_cache.shutil, "disk_usage", lambda _: usage(10, 9, 1))
    load(source, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob(DONE))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"source": 3}'])
def test_torn_entry_of_another_source_is_no_failure(
    content: bytes, source: Path, tmp_path: Path
) -> None:
    other = tmp_path / "cache" / "weights" / "other"
    other.mkdir(parents=True)
    (other / DONE).write_bytes(content)
    first, _ = load(source, tmp_path / "cache")
    assert_same(first, load(source, tmp_path / "cache")[0])


def test_writing_that_fails_in_any_way_is_no_failure(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors has an error of its own for a disk that is full."""

    def fail(*_: object) -> None:
        raise SafetensorError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    load(source, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob(DONE))


SAVE_AND_END = """
import sys
import torch
from model import weight_cache

weight_cache.MAX_END_SECONDS = float(sys.argv[2])
tensor = torch.ones(1 << 22)
parts = {str(n): tensor for n in range(1)}
weight_cache.model_parts = lambda _: ((f"part-{n}", {"t": tensor.clone()}) for n in range(60))
cache = weight_cache.WeightCache.__new__(weight_cache.WeightCache)
cache._entry = weight_cache.Path(sys.argv[1])
cache._source = cache._entry
cache._stopped = weight_cache.threading.Event()
cache.save_later(None)
"""


@pytest.mark.parametrize(("seconds", "is_complete"), [("600", True), ("0", False)])
def test_program_that_ends_while_an_entry_is_written_ends_well(
    seconds: str, is_complete: bool, tmp_path: Path
) -> None:
    """Torch would abort it with status 134."""
    done = subprocess.run(
        [sys.executable, "-c", SAVE_AND_END, str(tmp_path / "entry"), seconds],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "entry" / DONE).exists() == is_complete


def test_folder_that_cannot_be_written_is_no_failure(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    load(source, tmp_path / "cache")


def test_tensors_are_freed_one_by_one(source: Path) -> None:
    """Otherwise a shard of 5 GB would stay in memory while it is read."""
    import gc
    import weakref

    references: list[weakref.ref[torch.Tensor]] = []
    for _, tensor in read_tensors(t for _, t in read_model_folder(source).tensors()):
        assert sum(ref() is not None for ref in references) <= 1
        references.append(weakref.ref(tensor))
    del tensor
    gc.collect()
    assert not any(ref() is not None for ref in references)
