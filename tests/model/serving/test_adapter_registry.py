"""AdapterRegistry: scans, names, disabled and broken adapters, digests."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from unittest.mock import Mock

import pytest

from model.engine.adapter_cache import AdapterCache
from model.errors import AdapterError, OutOfMemoryError, UnknownModelError
from model.folders import weights
from model.folders.base_info import BaseInfo
from model.serving import adapter_folders
from model.serving.adapter_folders import Adapter, AdapterFolders
from model.serving.adapter_registry import AdapterRegistry
from tests.model.serving.adapters import (
    BASE,
    PairMaker,
    Q,
    load_lora,
    pair,
    scanned_registry,
    sound_tensors,
    touch,
    write_adapter,
)


def test_recent_scan_is_used_instead_of_a_new_one(tmp_path: Path) -> None:
    """A scan reads files; the page uses the result of the last one."""
    registry = AdapterRegistry(tmp_path, BASE, ())
    assert registry.cached() == []
    write_adapter(tmp_path / "poet")
    assert registry.cached() == registry.scan(max_age=60) == []
    assert [adapter.name for adapter in registry.scan()] == ["poet"]
    assert registry.cached() == registry.scan()


def test_thread_that_waits_for_a_scan_uses_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each tab scanned again, one after the other."""
    scans = []
    registry = AdapterRegistry(tmp_path, BASE, ())
    scan = AdapterFolders.scan

    def slow(folders: AdapterFolders) -> Mapping[str, Adapter]:
        scans.append(1)
        second.start()
        while not waiting.is_set():
            waiting.wait(0.01)
        return scan(folders)

    def wait() -> None:
        waiting.set()
        registry.scan(max_age=60)

    waiting, second = threading.Event(), threading.Thread(target=wait)
    monkeypatch.setattr(AdapterFolders, "scan", slow)
    registry.scan(max_age=60)
    second.join()
    assert len(scans) == 1


def test_extra_folders_are_served_too(tmp_path: Path) -> None:
    """By the last part of their paths; they replace folders of the same name."""
    write_adapter(tmp_path / "adapters" / "poet")
    write_adapter(tmp_path / "adapters" / "mine", card={"description": "old"})
    mine = write_adapter(tmp_path / "out" / "mine", card={"description": "new"})
    registry = AdapterRegistry(tmp_path / "adapters", BASE, (), [mine, tmp_path / "nowhere"])
    assert [adapter.name for adapter in registry.scan()] == ["mine", "poet"]
    assert (registry.get("mine").path, registry.get("mine").description) == (mine, "new")
    assert load_lora(registry, "mine")
    with pytest.raises(UnknownModelError):
        registry.get(str(mine))


# Broken adapters


def test_broken_adapter_is_refused_with_its_reason(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet", {"use_qalora": True})
    for call in (
        lambda: scanned_registry(tmp_path).get("poet"),
        lambda: load_lora(scanned_registry(tmp_path), "poet"),
    ):
        with pytest.raises(AdapterError, match="'poet' is broken: it uses QALoRA") as caught:
            call()
        assert caught.value.http_status == 422


def test_broken_adapter_does_not_disturb_a_good_one(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a-broken", {"use_dora": True})
    torn = write_adapter(tmp_path / "b-torn") / "adapter_model.safetensors"
    torn.write_bytes(b"torn")
    write_adapter(tmp_path / "good")
    adapters = AdapterRegistry(tmp_path, BASE, ()).scan()
    assert [(a.name, a.ready) for a in adapters] == [
        ("a-broken", False), ("b-torn", False), ("good", True),
    ]  # fmt: skip
    assert load_lora(scanned_registry(tmp_path), "good").pairs


def test_file_torn_after_the_scan_is_an_adapter_error(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    registry = scanned_registry(tmp_path)
    (path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(AdapterError, match="'poet' is broken: it cannot be read"):
        load_lora(registry, "poet")


def test_weights_that_change_while_they_are_read_are_refused(tmp_path: Path) -> None:
    """Else the cache would keep results of the new weights under the old digest."""
    path = write_adapter(tmp_path / "poet")
    registry = scanned_registry(tmp_path)
    digest = registry.get("poet").digest
    changed = {**sound_tensors(), **pair(Q.format(1), 16, 32)}
    write_adapter(path, tensors=changed)
    with pytest.raises(AdapterError, match="'poet' have just changed"):
        registry.load("poet", digest, PairMaker())
    assert load_lora(registry, "poet").pairs.keys() >= {(1, "q_proj")}


def test_folder_gone_after_the_scan_is_unknown(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    registry = scanned_registry(tmp_path)
    shutil.rmtree(path)
    with pytest.raises(UnknownModelError):
        load_lora(registry, "poet")


# Names


def test_unknown_name_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lighthouse")
    with pytest.raises(UnknownModelError, match="'lighthous'") as caught:
        scanned_registry(tmp_path).get("lighthous")
    assert caught.value.remedy == "Did you mean lighthouse?"
    assert caught.value.http_status == 404


@pytest.mark.parametrize("name", ["", ".", "..", "../poet", "poet/", "./poet", "/etc", "zzz"])
def test_name_is_never_a_path(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "poet")
    write_adapter(tmp_path / "poet")
    with pytest.raises(UnknownModelError):
        scanned_registry(tmp_path / "adapters").get(name)


def test_only_folders_with_a_config_are_adapters(tmp_path: Path) -> None:
    write_adapter(tmp_path / "poet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("adapters live here")
    assert [a.name for a in AdapterRegistry(tmp_path, BASE, ()).scan()] == ["poet"]


def test_missing_folder_holds_no_adapters(tmp_path: Path) -> None:
    assert AdapterRegistry(tmp_path / "nowhere", BASE, ()).scan() == []


# Later scans


def test_rescan_sees_what_is_new(tmp_path: Path) -> None:
    registry = scanned_registry(tmp_path)
    with pytest.raises(UnknownModelError):
        registry.get("poet")
    write_adapter(tmp_path / "poet")
    assert registry.get("poet").ready  # without a scan before
    assert [a.name for a in registry.scan()] == ["poet"]


def test_rescan_forgets_what_is_gone(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    registry = scanned_registry(tmp_path)
    shutil.rmtree(path)
    assert registry.scan() == []
    with pytest.raises(UnknownModelError):
        registry.get("poet")


def test_rescan_forgets_all_when_the_whole_folder_is_gone(tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapters" / "poet")
    registry = scanned_registry(tmp_path / "adapters")
    shutil.rmtree(tmp_path / "adapters")
    assert registry.scan() == []
    with pytest.raises(UnknownModelError):
        registry.get("poet")


def test_disabled_adapter_is_listed_and_not_served(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    registry = scanned_registry(tmp_path)
    registry.disable("poet")
    (adapter,) = registry.scan()
    assert adapter.problem
    assert adapter.problem.code == "adapter_withdrawn"
    assert registry.cached() == [adapter]
    shutil.rmtree(path)
    write_adapter(path)  # new files do not enable it
    with pytest.raises(AdapterError, match="is disabled"):
        registry.get("poet")
    registry.enable("poet")
    assert registry.get("poet").ready
    for change in (registry.disable, registry.enable):
        with pytest.raises(UnknownModelError):
            change("nobody")


def test_rescan_sees_repaired_and_broken_files(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet", {"use_dora": True})
    registry = scanned_registry(tmp_path)
    write_adapter(path)
    assert registry.scan()[0].ready
    (path / "adapter_model.safetensors").write_bytes(b"torn")
    assert not registry.scan()[0].ready


def test_rescan_sees_a_new_card(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    registry = scanned_registry(tmp_path)
    write_adapter(path, card={"description": "new"})
    assert registry.scan()[0].description == "new"


def test_rescan_sees_weights_of_the_same_size(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "poet")
    registry = scanned_registry(tmp_path)
    before = registry.get("poet").digest
    write_adapter(path, tensors={name: tensor + 1 for name, tensor in sound_tensors().items()})
    touch(path / "adapter_model.safetensors")
    assert registry.scan()[0].digest != before


def test_rescan_reads_only_what_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("unchanged", "changed"):
        write_adapter(tmp_path / name)
    registry = scanned_registry(tmp_path)
    read: list[str] = []

    def read_adapter(path: Path, base: BaseInfo | None, templates: Collection[str]) -> Adapter:
        read.append(path.name)
        return Adapter(path.name, path)

    monkeypatch.setattr(adapter_folders, "read_adapter", read_adapter)
    touch(tmp_path / "changed" / "adapter_config.json")
    registry.scan()
    assert read == ["changed"]


# Memory runs out

NO_MEMORY: list[Exception] = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["read_card", "digest", "check_adapter"])
def test_adapter_without_memory_to_read_it_is_read_again(
    error: Exception, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted as damaged until its files changed."""
    write_adapter(tmp_path / "poet")
    with monkeypatch.context() as patch:
        patch.setattr(adapter_folders, place, Mock(side_effect=error))
        registry = scanned_registry(tmp_path)
        (adapter,) = registry.scan()
        assert adapter.problem
        assert adapter.problem.code == "adapter_out_of_memory"
        with pytest.raises(OutOfMemoryError, match="not enough memory for the adapter 'poet'"):
            registry.get("poet")
    assert registry.get("poet").ready


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["list_safetensors", "make_lora_pair"])
def test_adapter_without_memory_to_load_it_is_refused_for_now(
    error: Exception, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """API clients got a bare 500, or an error that blamed the file."""
    write_adapter(tmp_path / "poet")
    registry = scanned_registry(tmp_path)
    digest, maker = registry.get("poet").digest, PairMaker()
    with monkeypatch.context() as patch:
        if place == "make_lora_pair":
            patch.setattr(maker, place, Mock(side_effect=error))
        else:
            patch.setattr(weights, place, Mock(side_effect=error))
        cache = AdapterCache(lambda name, sha256: registry.load(name, sha256, maker), None)
        with pytest.raises(OutOfMemoryError, match="Ask again when") as caught:
            cache.acquire("poet", digest)
        assert (caught.value.http_status, caught.value.code) == (503, "out_of_memory")
    assert cache.acquire("poet", digest).lora.pairs


# Digests


def digest(path: Path) -> str:
    return scanned_registry(path.parent).get(path.name).digest


def test_digest_changes_with_weights_and_config(tmp_path: Path) -> None:
    first = digest(write_adapter(tmp_path / "poet"))
    other = digest(write_adapter(tmp_path / "poet", {"lora_alpha": 7}))
    tensors = {name: tensor + 1 for name, tensor in sound_tensors().items()}
    third = digest(write_adapter(tmp_path / "poet", tensors=tensors))
    assert len({first, other, third}) == 3


def test_digest_does_not_depend_on_name_place_and_card(tmp_path: Path) -> None:
    first = digest(write_adapter(tmp_path / "a" / "poet"))
    assert digest(write_adapter(tmp_path / "b" / "bard", card={"description": "x"})) == first
