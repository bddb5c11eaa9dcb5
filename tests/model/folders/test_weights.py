"""Tensors are listed without being read, and each is read alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model.errors import ModelFolderError
from model.folders.lazy_tensor import LazyTensor, read_bytes
from model.folders.weight_writer import write_weights
from model.folders.weights import list_tensors, read_tensors


def some_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "half": random(5, 7).half(),
        "bfloat": random(3).bfloat16(),
        "float": random(2, 3, 4),
        "whole": torch.arange(6).view(2, 3),
        "empty": torch.zeros(0, 4),
        "one": torch.tensor(2.5),
    }


def save(tensors: dict[str, Tensor], file: Path) -> Path:
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    return file


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin", "中 文.bin"])
def test_tensors_of_every_type_and_shape_are_read_unchanged(name: str, tmp_path: Path) -> None:
    expected = some_tensors()
    file = save(expected, tmp_path / name)
    found = {tensor.name: tensor for tensor in list_tensors(file)}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].shape == tuple(tensor.shape)
        assert found[name].nbytes == tensor.nbytes
        read = found[name].read()
        assert read.dtype == tensor.dtype
        assert read.equal(tensor)
        assert read.is_contiguous()


def test_views_of_one_storage_are_read_as_separate_tensors(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(4, 6)
    views = {"turned": base.t(), "part": base[1:3, 2:], "step": base[:, ::2], "whole": base}
    file = save(views, tmp_path / "views.bin")
    assert {name: tensor.tolist() for name, tensor in read_tensors(list_tensors(file))} == {
        name: tensor.tolist() for name, tensor in views.items()
    }


def test_old_pytorch_format_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "old.bin"
    torch.save(some_tensors(), file, _use_new_zipfile_serialization=False)
    assert dict(read_tensors(list_tensors(file)))["half"].equal(some_tensors()["half"])
    monkeypatch.setattr("model.folders.pytorch_file.available_memory", lambda: 5)
    with pytest.raises(ModelFolderError, match="old format"):
        list_tensors(file)


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
@pytest.mark.parametrize("length", [0, 9, 200, -1])
def test_torn_file_has_a_plain_message(name: str, length: int, tmp_path: Path) -> None:
    file = save(some_tensors(), tmp_path / name)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ModelFolderError) as caught:
        dict(read_tensors(list_tensors(file)))
    assert str(file) in caught.value.message
    assert "again" in caught.value.remedy


@pytest.mark.parametrize("name", ["w.safetensors", "w.bin"])
def test_git_lfs_pointer_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    with pytest.raises(ModelFolderError, match="git-lfs"):
        list_tensors(tmp_path / name)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_runs_code_is_refused(zipped: bool, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(tmp_path / 'pwned')!r}, 'w')",))

    file = tmp_path / "evil.bin"
    torch.save({"w": Evil()}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelFolderError, match="tries to run code"):
        list_tensors(file)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("held", [[torch.zeros(2)], {"w": 1}, {"model": {"w": torch.zeros(2)}}, 5])
def test_pickle_without_tensors_by_name_is_refused(held: object, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "other.bin")
    with pytest.raises(ModelFolderError, match="no named weights"):
        list_tensors(tmp_path / "other.bin")


def test_missing_file_has_a_plain_message(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="cannot be read"):
        list_tensors(tmp_path / "absent.safetensors")
    with pytest.raises(ModelFolderError, match="cannot be read"):
        read_bytes(tmp_path / "absent.gguf", 0, 4)


def test_unsupported_type_is_named(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4).to(torch.float8_e4m3fn)}, tmp_path / "w.safetensors")
    with pytest.raises(ModelFolderError, match="F8_E4M3"):
        list_tensors(tmp_path / "w.safetensors")


# Writing


def lazy(tensors: dict[str, Tensor], tmp_path: Path) -> list[LazyTensor]:
    return list_tensors(save(tensors, tmp_path / "source.safetensors"))


@pytest.mark.parametrize("most", [10**9, 60])
def test_written_weights_are_read_by_the_library(
    most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    monkeypatch.setattr("model.folders.weight_writer.SHARD_BYTES", most)
    folder = tmp_path / "out"
    folder.mkdir()
    shares: list[float] = []
    write_weights(lazy(some_tensors(), tmp_path), folder, shares.append)
    files = sorted(folder.glob("*.safetensors"))
    assert (len(files) > 1) == (most == 60)
    assert (folder / "model.safetensors.index.json").exists() == (most == 60)
    found = {name: t for file in files for name, t in load_file(file).items()}
    assert found.keys() == some_tensors().keys()
    assert all(found[name].equal(tensor) for name, tensor in some_tensors().items())
    assert all(found[name].dtype == tensor.dtype for name, tensor in some_tensors().items())
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_finished_files_are_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.folders.weight_writer.SHARD_BYTES", 60)
    tensors = lazy(some_tensors(), tmp_path)
    write_weights(tensors, tmp_path, lambda share: None)
    done = sorted(tmp_path.glob("model-*.safetensors"))
    before = [path.read_bytes() for path in done]
    done[1].unlink()
    reads: list[str] = []

    def counted(tensor: LazyTensor) -> LazyTensor:
        def read() -> Tensor:
            reads.append(tensor.name)
            return tensor.read()

        return LazyTensor(tensor.name, tensor.dtype, tensor.shape, read)

    write_weights([counted(tensor) for tensor in tensors], tmp_path, lambda share: None)
    assert [path.read_bytes() for path in done] == before
    assert 0 < len(reads) < len(tensors)


def test_interrupted_file_has_no_final_name(tmp_path: Path) -> None:
    def read() -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_weights([LazyTensor("w", "F32", (2,), read)], tmp_path, lambda share: None)
    assert not list(tmp_path.glob("*.safetensors"))
