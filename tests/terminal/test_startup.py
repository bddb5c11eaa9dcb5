"""Finding and checking the adapter of --lora_model before the base is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from model.errors import AdapterError, LinlyError, UnknownModelError
from terminal.startup import check_adapter_folder, find_adapter

ADAPTERS = CHECKOUT / "adapters"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an adapter `fintune-Linly`, and one `poet` in `adapters/`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ADAPTERS / "lighthouse", tmp_path / "fintune-Linly")
    shutil.copytree(ADAPTERS / "lighthouse", tmp_path / "adapters" / "poet")
    (tmp_path / "poet").mkdir()  # without an adapter, so adapters/poet is found
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("poet", "adapters/poet"),
        ("fintune-Linly", "fintune-Linly"),
        ("fintune-Linly/", "fintune-Linly"),
        ("./empty/../fintune-Linly", "fintune-Linly"),
        ("adapters/poet", "adapters/poet"),
    ],
)
def test_find_adapter_takes_a_path_or_a_name(name: str, folder: str, home: Path) -> None:
    assert find_adapter(name, Path("adapters")) == home / folder


def test_find_adapter_takes_the_working_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home / "fintune-Linly")
    assert find_adapter(".", Path("adapters")).name == "fintune-Linly"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("finetune-Linly", UnknownModelError, "finetune-Linly. Did you mean fintune-Linly?"),
        ("FINTUNE-LINLY", UnknownModelError, "Did you mean fintune-Linly?"),
        ("poett", UnknownModelError, "Did you mean poet?"),
        ("adapters/peot", UnknownModelError, "Did you mean adapters/poet?"),
        ("quite/other", UnknownModelError, "a name in adapters: poet."),
        ("empty", AdapterError, "empty is not an adapter: it has no adapter_config.json"),
        ("notes.txt", AdapterError, "notes.txt is a file"),
    ],
)
def test_find_adapter_reports_a_wrong_name_on_one_line(
    name: str, kind: type[LinlyError], message: str, home: Path
) -> None:
    with pytest.raises(kind) as raised:
        find_adapter(name, Path("adapters"))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_check_adapter_folder_refuses_a_broken_adapter_with_the_reason(home: Path) -> None:
    path = home / "fintune-Linly"
    check_adapter_folder(path, {"model"})
    (path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(AdapterError, match="The adapter 'fintune-Linly' is broken: "):
        check_adapter_folder(path, {"model"})
