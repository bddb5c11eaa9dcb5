"""Adapter folders from strangers: a fault makes one adapter unusable, and nothing else.

Faults that once hung or killed the program run in their own process.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from model.base_resolver import base_name
from model.config.settings import read_settings
from model.display import MAX_DESCRIPTION
from model.doctor.check_adapter import check_adapter
from model.errors import LinlyError
from model.serving import adapter_folders
from model.serving.adapter_registry import AdapterRegistry
from model.text.prompt_template import load_templates
from tests.model.serving.adapters import BASE, problem_text, write_adapter
from tests.security.own_process import survives

GBK = os.fsdecode("小灯".encode("gbk"))
CATASTROPHIC = r"([\w.]+)+\d"  # 2^30 ways to cut a name of 31 letters into parts


SCAN = """
import sys
from pathlib import Path
from model.serving.adapter_registry import AdapterRegistry
from tests.model.serving.adapters import BASE
for adapter in AdapterRegistry(Path(sys.argv[1]), BASE, ("linly",)).scan():
    print(adapter.name, adapter.problem.message() if adapter.problem else "ready")
"""


# Patterns


def test_registry_does_not_hang_on_patterns_that_backtrack(tmp_path: Path) -> None:
    write_adapter(tmp_path / "bad alpha", {"alpha_pattern": {CATASTROPHIC: 3}})
    write_adapter(tmp_path / "bad rank", {"rank_pattern": {CATASTROPHIC: 3}})
    write_adapter(tmp_path / "good")
    # The patterns match nothing.
    assert survives(SCAN, tmp_path) == "bad alpha ready\nbad rank ready\ngood ready\n"


@pytest.mark.parametrize(
    "pattern", [r"(q)_\1roj", r"(?=q)q_proj", "q_proj{,3}", "q" * 2000, "[q", "\ud800", "a{2000}"]
)
def test_a_pattern_that_cannot_be_matched_in_one_pass_is_reported(
    pattern: str, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "bad", {"rank_pattern": {pattern: 3}})
    message = problem_text(tmp_path)
    assert "rank_pattern" in message
    assert "very slow to match" in message
    message.encode()


@pytest.mark.parametrize(
    "number", [10**9, -1, 0, True, "3", None, [3], float("nan"), float("inf"), 10**400]
)
@pytest.mark.parametrize("key", ["r", "lora_alpha", "rank_pattern", "alpha_pattern"])
def test_invalid_numbers_are_reported_with_their_key(key: str, number: Any, tmp_path: Path) -> None:
    if key == "r" and number is None:
        return  # then the rank comes from the weights
    value = {"q_proj": number} if key.endswith("pattern") else number
    write_adapter(tmp_path / "bad", {key: value})
    message = problem_text(tmp_path)
    assert key in message or "rank" in message


@pytest.mark.slow
def test_merge_does_not_match_target_modules_as_patterns(tmp_path: Path) -> None:
    """peft matches target_modules with a backtracking regex."""
    write_adapter(tmp_path / "bad", {
        "target_modules": CATASTROPHIC, "exclude_modules": CATASTROPHIC,
        "rank_pattern": {CATASTROPHIC: 9, "q_proj|down_proj": 3},
    })  # fmt: skip
    code = """
import sys
from pathlib import Path
from model.merge.adapter_weights import read_adapter
from model.merge.weights import Merger
import torch
adapter = read_adapter(Path(sys.argv[1]), 1.0, tied=False)
name = "model.layers.0.self_attn.q_proj"
merged = Merger(name, [adapter]).merge_rows(torch.zeros(32, 16), 0, 32)
print(bool(merged.any()))
"""
    assert survives(code, tmp_path / "bad").strip() == "True"


# Names and descriptions


@pytest.mark.parametrize(
    "name", [GBK, "two\nlines", "\u202egnp.exe", "zero\u200bwidth", "bell\x07", " poet", "\ufdd0"]
)
def test_an_adapter_with_an_unprintable_name_is_listed_but_not_ready(
    name: str, tmp_path: Path
) -> None:
    write_adapter(tmp_path / name)
    write_adapter(tmp_path / "good")
    found = AdapterRegistry(tmp_path, BASE, ()).scan()
    assert [adapter.name for adapter in found if adapter.ready] == ["good"]
    (bad,) = [adapter for adapter in found if not adapter.ready]
    assert bad.problem
    assert bad.name.isprintable()
    bad.name.encode()
    assert "Rename" in bad.problem.remedy()


@pytest.mark.parametrize("name", ["小灯", "poet-7b.v2", "two words", "naïve", "👩\u200d🚀"])
def test_adapters_with_printable_names_are_ready(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / name)
    assert [(a.name, a.ready) for a in AdapterRegistry(tmp_path, BASE, ()).scan()] == [(name, True)]


@pytest.mark.parametrize(
    ("description", "cleaned"),
    [
        ("half \ud800 a letter", "half \ufffd a letter"),
        ("\u202eabc\u2066\nnew\x00line", "abc new line"),
        ("x" * 1_000_000, "x" * (MAX_DESCRIPTION - 1) + "…"),
        (["a", "list"], ""),
        ("家里的小灯", "家里的小灯"),
    ],
)
def test_descriptions_are_cleaned(description: Any, cleaned: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", card={"description": description[:900_000]})
    (found,) = AdapterRegistry(tmp_path, BASE, ()).scan()
    assert found.ready
    assert found.description == cleaned


def test_findings_show_no_control_characters(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", card={"base_model": "x\u202e\ud800\n" + "y" * 5000})
    (found,) = AdapterRegistry(tmp_path, BASE, ()).scan()
    messages = "".join(warning.message() for warning in found.warnings)
    messages.encode()
    assert "\u202e" not in messages
    assert len(messages) < 2000


def test_a_templates_description_and_a_bases_name_are_cleaned(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('description = "a\\u202eb"\ntemplate = "x"', encoding="utf-8")
    assert load_templates(tmp_path)["t"].description == "ab"
    settings = read_settings([f"--base_model=/models/{GBK}"], {})
    assert base_name(settings) == r"С\xb5\xc6"  # two of its bytes happen to be a letter


# Files


def test_registry_does_not_wait_for_fifos(tmp_path: Path) -> None:
    names = (
        "adapter_model.safetensors", "linly_adapter.json", "tokenizer.json", "adapter_config.json",
    )  # fmt: skip
    for number, name in enumerate(names):
        path = write_adapter(tmp_path / f"bad {number}")
        (path / name).unlink(missing_ok=True)
        os.mkfifo(path / name)
    write_adapter(tmp_path / "good")
    assert "good ready" in survives(SCAN, tmp_path)


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "linly_adapter.json", "tokenizer.json"]
)
@pytest.mark.parametrize("target", ["/dev/zero", "/etc/passwd"])
def test_a_link_out_of_the_folder_is_not_followed(name: str, target: str, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "bad")
    (path / name).unlink(missing_ok=True)
    (path / name).symlink_to(target)
    if name == "tokenizer.json" and target == "/dev/zero":
        return  # no file, so no tokenizer
    if target == "/dev/zero" and name == "linly_adapter.json":
        return
    message = problem_text(tmp_path)
    assert "outside its folder" in message or "has no" in message


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    repo = tmp_path / "models--org--poet"
    made = write_adapter(repo / "snapshots" / "abc")
    (repo / "blobs").mkdir()
    for file in list(made.iterdir()):
        file.rename(repo / "blobs" / file.name)
        file.symlink_to(Path("../../blobs") / file.name)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "poet").symlink_to(made)
    (found,) = AdapterRegistry(tmp_path / "adapters", BASE, ()).scan()
    assert found.ready


@pytest.mark.parametrize("name", ["adapter_config.json", "linly_adapter.json"])
@pytest.mark.parametrize("content", ['{"a": "' + "x" * 2_000_000 + '"}', "[" * 100_000])
def test_json_that_is_too_large_or_too_deep_is_reported(
    name: str, content: str, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "bad")
    (path / name).write_text(content)
    message = problem_text(tmp_path)
    assert "larger than 1 MB" in message or "nested too deeply" in message


def test_overwriting_an_adapter_in_use_does_not_kill_the_program(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from model.serving.adapter_registry import AdapterRegistry
from model.folders.weights import list_tensors
from tests.model.serving.adapters import BASE, PairMaker
folder = Path(sys.argv[1])
registry = AdapterRegistry(folder, BASE, ("linly",))
lora = registry.load("a", registry.get("a").digest, PairMaker())
tensors = [tensor.read() for tensor in list_tensors(folder / "a" / "adapter_model.safetensors")]
os.truncate(folder / "a" / "adapter_model.safetensors", 0)
total = sum(float(p.a.sum() + p.b.sum()) for p in lora.pairs.values())
total += sum(float(t.sum()) for t in tensors)
print(total == total)
"""
    write_adapter(tmp_path / "a")
    assert survives(code, tmp_path).strip() == "True"


# Scans


def called_with(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    """Records the first argument of each call of a module's function from now on."""
    arguments: list[Any] = []
    function = getattr(module, name)

    def recorded(argument: Any, *args: Any, **kwargs: Any) -> Any:
        arguments.append(argument)
        return function(argument, *args, **kwargs)

    monkeypatch.setattr(module, name, recorded)
    return arguments


def test_a_folder_on_a_disk_that_hangs_does_not_delay_other_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_responds = threading.Event()
    for name in ("a", "hangs", "z"):
        write_adapter(tmp_path / name)
    registry = AdapterRegistry(tmp_path, BASE, (), timeout=0.5)
    read_adapter = adapter_folders.read_adapter

    def slow_read(path: Path, *args: Any) -> Any:
        if path.name == "hangs":
            disk_responds.wait()
        return read_adapter(path, *args)

    monkeypatch.setattr(adapter_folders, "read_adapter", slow_read)
    for _ in range(2):  # the second scan does not wait for the folder again
        found = {adapter.name: adapter for adapter in registry.scan()}
        assert found["a"].ready
        assert found["z"].ready
        assert found["hangs"].problem
        assert "still being read" in found["hangs"].problem.message()
    assert registry.get("z").ready
    disk_responds.set()
    for _ in range(6000):  # so that a fault fails the test instead of hanging it
        if {adapter.name: adapter for adapter in registry.scan()}["hangs"].ready:
            return
        threading.Event().wait(0.01)
    pytest.fail("the answer of the disk was never taken")


@pytest.mark.parametrize(
    "fault", [MemoryError(), RecursionError(), OverflowError("far"), BaseException("panic")]
)
def test_any_error_in_a_folder_makes_only_that_adapter_unusable(
    fault: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "bad")
    write_adapter(tmp_path / "good")

    def failing_check(path: Path, *args: Any) -> Any:
        if path.name == "bad":
            raise fault
        return check_adapter(path, *args)

    monkeypatch.setattr(adapter_folders, "check_adapter", failing_check)
    found = {a.name: a.ready for a in AdapterRegistry(tmp_path, BASE, ()).scan()}
    assert found == {"bad": False, "good": True}


def test_folders_that_have_not_changed_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        write_adapter(tmp_path / f"a{number:02}")
    registry = AdapterRegistry(tmp_path, BASE, ())
    registry.scan()
    read = called_with(monkeypatch, adapter_folders, "read_adapter")
    assert len(registry.scan()) == 20
    assert read == []
    checked = called_with(monkeypatch, os, "stat")
    assert registry.get("a07").ready
    folders = {Path(path).parent for path in checked if Path(path).is_relative_to(tmp_path)}
    assert folders == {tmp_path / "a07"}, "a request checks only its own adapter"


def test_registry_scans_at_most_max_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter_folders, "MAX_ADAPTERS", 3)
    for number in range(5):
        write_adapter(tmp_path / f"a{number}")
    registry = AdapterRegistry(tmp_path, BASE, ())
    assert [adapter.name for adapter in registry.scan()] == ["a0", "a1", "a2"]
    registry.scan()
    assert caplog.text.count("Only the first 3 adapters") == 1


def test_registry_does_not_scan_very_many_folders_for_each_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also requests for unknown names do not make it scan."""
    monkeypatch.setattr("model.serving.adapter_registry.MAX_QUICK_SCAN", 2)
    monkeypatch.setattr("model.serving.adapter_registry.SECONDS_A_FOLDER", 1000.0)
    for number in range(3):
        write_adapter(tmp_path / f"a{number}")
    registry = AdapterRegistry(tmp_path, BASE, ())
    assert len(registry.scan()) == 3
    listed = called_with(monkeypatch, os, "scandir")
    assert len(registry.scan()) == 3
    with pytest.raises(LinlyError, match="no model or adapter"):
        registry.get("unknown")
    assert registry.get("a1").ready
    assert tmp_path not in listed
