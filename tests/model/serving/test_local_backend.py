"""Finding the base by what `--base_model` says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model import base_resolver
from model.base_resolver import find_base
from model.config.settings import CHECKOUT, Settings
from model.errors import ModelFolderError
from model.serving.local_backend import check_early
from model.types import Phase

PROMPTS = CHECKOUT / "prompts"


def silent(phase: Phase, share: float) -> None:
    """Nobody watches."""


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
