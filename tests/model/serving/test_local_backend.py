"""A start on this machine: the base is found, checked and read once."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

from model import base_resolver, bounded_files
from model.base_resolver import find_base
from model.config.settings import CHECKOUT, Settings
from model.errors import ModelFolderError
from model.folders import model_folder
from model.serving.local_backend import check_early, load_local
from model.types import Phase

PROMPTS = CHECKOUT / "prompts"


def silent(phase: Phase, share: float) -> None:
    """Ignores the progress."""


def test_a_name_in_models_is_found_from_anywhere(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(tiny_folder, tmp_path / "models" / "mine")
    monkeypatch.setattr(base_resolver, "CHECKOUT", tmp_path)
    monkeypatch.chdir(elsewhere)
    settings = Settings(base_model="mine", prompts_dir=PROMPTS)
    check_early(settings)
    assert find_base(settings, silent) == tmp_path / "models" / "mine"


def test_a_folder_wins_over_a_name_in_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(base_resolver, "CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_base(Settings(base_model="mine"), silent) == Path("mine")


def test_a_hub_id_without_a_network_is_one_sentence() -> None:
    """HF_HUB_OFFLINE is set for the tests: the hub's client refuses at once."""
    with pytest.raises(ModelFolderError, match="could not be downloaded from the hub") as raised:
        find_base(Settings(base_model="nobody/has-this"), silent)
    assert "\n" not in str(raised.value)


def test_a_start_reads_each_file_once(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The early check, the full check and the loading share what was read."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    reads: Counter[str] = Counter()
    read_file, list_tensors = bounded_files.read_file, model_folder.list_tensors

    def count_read(path: Path, max_bytes: int | None = None) -> bytes:
        reads[path.name] += path.parent == folder
        return read_file(path, max_bytes)

    def count_listing(file: Path) -> list[model_folder.LazyTensor]:
        reads[file.name] += 1
        return list_tensors(file)

    monkeypatch.setattr(bounded_files, "read_file", count_read)
    monkeypatch.setattr(model_folder, "list_tensors", count_listing)
    settings = Settings(
        base_model=str(folder), prompts_dir=PROMPTS, adapters_dir=tmp_path, cache_dir=tmp_path
    )
    backend = load_local(settings, silent, folder=check_early(settings))
    backend.engine.close()
    assert reads["config.json"] == reads["model.safetensors"] == 1
    assert max(reads.values()) == 1, reads


def test_weights_that_change_after_the_check_are_listed_again(
    tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_folder, folder)
    base = model_folder.read_model_folder(folder)
    _, before = next(base.tensors())
    assert next(base.tensors())[1] is before
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert next(base.tensors())[1] is not before
