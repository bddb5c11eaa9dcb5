"""Faults of adapters in the registry: errors keep them from being served, warnings do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from model.folders.base_info import BaseInfo, read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.serving.adapter_registry import AdapterRegistry
from tests.model.doctor.adapter_faults import FAULTS
from tests.model.doctor.changes import edit_json
from tests.model.serving.adapters import BASE, write_adapter


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> BaseInfo:
    folder = read_model_folder(tiny_folder)
    return read_base_info(folder, "tiny", load_tokenizer(folder))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_the_problem_or_a_warning_of_its_adapter(
    name: str, base: BaseInfo, tiny_adapters: Path, tmp_path: Path
) -> None:
    """The checks are those of the command `check`: `tests/model/doctor/test_check_adapter.py`."""
    path = Path(shutil.copytree(tiny_adapters / "all", tmp_path / "poet"))
    edit_json(path / "linly_adapter.json", template="linly", base_model="org/tiny")
    FAULTS[name].change(path)
    found = AdapterRegistry(tmp_path, base, ("linly",)).scan()
    if FAULTS[name].code == "adapter_file_missing" and "config" in name:
        assert list(found) == []  # a folder without a config is no adapter
        return
    (adapter,) = found
    findings = [adapter.problem] if adapter.problem else adapter.warnings
    assert [finding.code for finding in findings] == [FAULTS[name].code]
    assert adapter.ready is (adapter.problem is None)


def test_loop_of_links_is_the_problem_of_that_folder_alone(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    bad = write_adapter(tmp_path / "bad")
    (bad / "linly_adapter.json").symlink_to("linly_adapter.json")
    (bad / "tokenizer.json").symlink_to("tokenizer.json")
    ready = {adapter.name: adapter.ready for adapter in AdapterRegistry(tmp_path, BASE, ()).scan()}
    assert ready["poet"]
