"""What `--lora_model` finds, and what it is refused with, before any base is loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT
from model.types import AdapterError, LinlyError, UnknownModelError
from terminal.startup import check_adapter_folder, find_adapter

ADAPTERS = CHECKOUT / "adapters"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an adapter `fintune-Linly`, and one `poet` in `adapters/`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ADAPTERS / "lighthouse", tmp_path / "fintune-Linly")
    shutil.copytree(ADAPTERS / "lighthouse", tmp_path / "adapters" / "poet")
    (tmp_path / "poet").mkdir()  # no adapter: the one in adapters/ is meant
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("poet", "adapters/poet"),
        ("fintune-Linly", "fintune-Linly"),
        ("fintune-Linly/", "fintune-Linly"),
        ("./empty/../fintune-Linly", "fintune-Linly"),
        ("adapters/poet", "adapters/poet"),
    ],
)
def test_a_folder_or_a_name(name: str, found: str, home: Path) -> None:
    assert find_adapter(name, Path("adapters")) == home / found


def test_the_folder_that_one_is_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home / "fintune-Linly")
    assert find_adapter(".", Path("adapters")).name == "fintune-Linly"


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("finetune-Linly", UnknownModelError, "finetune-Linly. Did you mean fintune-Linly?"),
        ("FINTUNE-LINLY", UnknownModelError, "Did you mean fintune-Linly?"),
        ("poett", UnknownModelError, "Did you mean poet?"),
        ("adapters/peot", UnknownModelError, "Did you mean adapters/poet?"),
        ("quite/other", UnknownModelError, "a name in adapters: poet."),
        ("empty", AdapterError, "empty is no adapter: it has no adapter_config.json"),
        ("notes.txt", AdapterError, "notes.txt is a file"),
    ],
)
def test_anything_else_is_one_sentence(
    name: str, kind: type[LinlyError], says: str, home: Path
) -> None:
    with pytest.raises(kind) as raised:
        find_adapter(name, Path("adapters"))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_broken_one_is_refused_with_its_reason(home: Path) -> None:
    path = home / "fintune-Linly"
    check_adapter_folder(path, {"model"})
    (path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(AdapterError, match="The adapter 'fintune-Linly' is broken: "):
        check_adapter_folder(path, {"model"})
