"""Weight files and configs from strangers: each fault is one error with a remedy."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from model.errors import ModelFolderError
from model.folders import lazy_tensor
from model.folders.lazy_tensor import LARGE
from model.folders.model_config import MAX_SIZES
from model.folders.model_folder import read_model_folder
from model.folders.weights import list_tensors, read_tensors
from tests.model.serving.adapters import problem_text, write_adapter
from tests.tiny_model import make_folder

# Tables of tensors


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    "header",
    [
        entry(shape=[10**12, 10**12]),
        entry(shape=[-2]),
        entry(shape=[True, 2]),
        entry(shape=[2.0]),
        entry(shape="2"),
        entry(shape=[1] * 9 + [2]),
        entry(dtype="F99"),
        entry(dtype=["F32"]),
        entry(data_offsets=[-8, 0]),
        entry(data_offsets=[4, 12]),
        entry(data_offsets=[8, 0]),
        entry(data_offsets=[0, 10**18]),
        entry(data_offsets=[0]),
        {"w": []},
        [],
        {"a\u202e": entry()["w"]},
        {"": entry()["w"]},
        {"x" * 1000: entry()["w"]},
        {"a": entry()["w"], "b": entry()["w"]},  # one over the other
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_an_invalid_table_of_tensors_is_an_error_with_a_remedy(header: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "w.safetensors", header, b"\0" * 8)
    with pytest.raises(ModelFolderError) as caught:
        dict(read_tensors(list_tensors(file)))
    assert caught.value.remedy


@pytest.mark.parametrize("length", [2**63, 10**9, 500])
def test_a_table_longer_than_its_file_is_an_error(length: int, tmp_path: Path) -> None:
    file = written(tmp_path / "w.safetensors", b"{}", length=length)
    with pytest.raises(ModelFolderError, match=r"table|too early"):
        list_tensors(file)


def test_a_tensor_larger_than_the_free_memory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file needs no space on the disk."""
    header = entry(shape=[LARGE // 4], data_offsets=[0, LARGE])
    file = written(tmp_path / "w.safetensors", header)
    os.truncate(file, file.stat().st_size + LARGE)
    monkeypatch.setattr(lazy_tensor, "available_memory", lambda: LARGE - 1)
    (tensor,) = list_tensors(file)
    with pytest.raises(ModelFolderError, match="memory"):
        tensor.read()


def test_weights_that_shrink_while_they_are_read_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a memory-mapped file, this killed the process (SIGBUS)."""
    file = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    tensor = list_tensors(file)[-1]
    read_into = lazy_tensor.read_into

    def truncate(opened: Any, memory: memoryview) -> None:
        os.truncate(file, 10)  # the file is open by now
        read_into(opened, memory)

    monkeypatch.setattr(lazy_tensor, "read_into", truncate)
    with pytest.raises(ModelFolderError, match="became shorter") as caught:
        tensor.read()
    assert caught.value.remedy


# PyTorch files


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.bin", tmp_path / "bad.bin"
    torch.save({"w": torch.zeros(100_000)}, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert list_tensors(good)
    with pytest.raises(ModelFolderError, match="contents are larger"):
        list_tensors(bad)


def test_an_archive_with_too_many_members_or_a_large_pickle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.bin"
    torch.save({"w": torch.zeros(4)}, file)
    monkeypatch.setattr("model.folders.torch_archive.MAX_MEMBERS", 3)
    with pytest.raises(ModelFolderError, match="more than 3 members"):
        list_tensors(file)
    monkeypatch.undo()
    monkeypatch.setattr("model.folders.torch_archive.MAX_PICKLE_BYTES", 3)
    with pytest.raises(ModelFolderError, match="its pickle"):
        list_tensors(file)


def test_a_tensor_that_repeats_one_value_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(50_000, 50_000)}, tmp_path / "w.bin")
    with pytest.raises(ModelFolderError, match="does not match the file"):
        list_tensors(tmp_path / "w.bin")


def test_an_adapter_in_the_old_format_is_refused(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    (path / "adapter_model.safetensors").unlink()
    torch.save({"w": torch.zeros(2)}, path / "adapter_model.bin",
               _use_new_zipfile_serialization=False)  # fmt: skip
    assert "old format" in problem_text(tmp_path)


# Bases


@pytest.mark.parametrize("value", [10**12, -1, 0, True, 1.5, "8"])
@pytest.mark.parametrize("key", list(MAX_SIZES))
def test_invalid_sizes_of_a_base_are_reported_with_their_key(
    key: str, value: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    make_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelFolderError, match=key):
        read_model_folder(folder)
