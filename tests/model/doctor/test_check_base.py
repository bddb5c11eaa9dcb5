"""A base's folder: each fault has its code, and a sound one has none."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.diagnostics import Finding
from model.doctor.check_base import METAS_SUM, check_base, quick_check
from model.folders.model_folder import ModelFolder
from tests.model.tokenizers import write_spm

Change = Callable[[Path], None]


def no_bar(what: str, nbytes: int) -> Any:
    return nullcontext(lambda share: None)


def check(folder: Path, deep: bool = False) -> list[Finding]:
    return list(check_base(folder, deep=deep, bar=no_bar))


def codes(folder: Path, deep: bool = False) -> set[str]:
    """What is found, but for the memory that this machine has."""
    return {found.code for found in check(folder, deep)} - {"memory", "memory_short"}


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A sound model, to be spoilt."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "模型 tiny"))


def edit(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None takes them out."""
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    data = {key: value for key, value in {**data, **changes}.items() if value is not None}
    file.write_text(json.dumps(data), encoding="utf-8")


def weights(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors")

    return apply


def config(**changes: Any) -> Change:
    return lambda folder: edit(folder / "config.json", **changes)


def cut(name: str, keep: int) -> Change:
    def apply(folder: Path) -> None:
        file = folder / name
        file.write_bytes(file.read_bytes()[:keep])

    return apply


def write(name: str, content: str) -> Change:
    def apply(folder: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8")

    return apply


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


class Evil:
    """What a pickle can do to whoever opens it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("open('pwned', 'w')",)


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_evil_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"w": Evil()}, folder / "pytorch_model.bin")


def in_shards(index: Callable[[dict[str, str]], object]) -> Change:
    def apply(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-1-of-1.safetensors")
        places = dict.fromkeys(held, "model-1-of-1.safetensors")
        index(places)
        edit(folder / "model.safetensors.index.json", weight_map=places)

    return apply


def metas_tokenizer(folder: Path) -> None:
    """A file with the sum of Meta's; the sum is played, the file is nobody's to copy."""
    (folder / "tokenizer.model").write_bytes(b"meta")


NORM, Q = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
FAULTS: list[tuple[str, Change, set[str]]] = [
    ("no config", remove("config.json"), {"file_missing"}),
    ("torn config", cut("config.json", 30), {"file_unreadable"}),
    ("another family", config(architectures=["Qwen2ForCausalLM"], model_type="qwen2"),
     {"not_llama"}),
    ("no vocabulary size", config(vocab_size=None), {"config_incomplete"}),
    ("odd heads", config(num_attention_heads=0), {"config_unsound"}),
    ("text for a size", config(num_hidden_layers="two"), {"config_unsound"}),
    ("another activation", config(hidden_act="gelu"), {"activation_unknown"}),
    ("stretched positions", config(rope_parameters={"rope_type": "dynamic", "factor": 2.0,
     "rope_theta": 1e4}), {"rope_unknown"}),
    ("no weights", remove("model.safetensors"), {"weights_missing"}),
    ("torn weights", cut("model.safetensors", -10), {"weights_torn"}),
    ("empty weights", cut("model.safetensors", 0), {"weights_torn"}),
    ("a pointer of git-lfs", write("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
     {"lfs_pointer"}),
    ("a missing tensor", weights(lambda held: held.pop(NORM)), {"tensor_missing"}),
    ("a tensor too many", weights(lambda held: held.update(odd=torch.zeros(2))),
     {"tensor_unknown"}),
    ("another shape", weights(lambda held: held.update({NORM: torch.zeros(3)})), {"tensor_shape"}),
    ("another layer count", config(num_hidden_layers=1), {"tensor_unknown"}),
    ("pickles", as_pickle, {"pickle_weights"}),
    ("pickles with code", as_evil_pickle, {"pickle_weights", "pickle_runs_code"}),
    ("an index to the outside", in_shards(lambda held: held.update({NORM: "../x.safetensors"})),
     {"index_unsound"}),
    ("an index to nothing", in_shards(lambda held: held.update({NORM: "2.safetensors"})),
     {"shards_missing"}),
    ("an index that errs", in_shards(lambda held: held.update(odd="model-1-of-1.safetensors")),
     {"index_differs"}),
    ("no tokenizer", remove("tokenizer.json"), {"tokenizer_missing"}),
    ("torn tokenizer", cut("tokenizer.json", 100), {"tokenizer_unreadable"}),
    ("a broken name", lambda f: edit(f / "tokenizer_config.json", bos_token=""),
     {"special_token_broken"}),
    ("a broken id", config(pad_token_id=-1), {"special_token_broken"}),
    ("no end", lambda f: [edit(f / n, eos_token=None, eos_token_id=None) for n in
     ("tokenizer_config.json", "config.json", "generation_config.json")], {"eos_missing"}),
    ("no chat template", lambda f: edit(f / "tokenizer_config.json", chat_template=None),
     {"no_chat_template"}),
]  # fmt: skip


def test_a_sound_folder_has_no_problems(folder: Path) -> None:
    assert codes(folder, deep=True) == set()


@pytest.mark.parametrize(
    ("change", "expected"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_every_fault_has_its_code(change: Change, expected: set[str], folder: Path) -> None:
    change(folder)
    found = check(folder)
    assert codes(folder) == expected
    for one in found:
        for language in ("en", "zh"):
            assert one.message(language)
            assert one.remedy(language) or one.level == "note"
    assert not Path("pwned").exists()


def test_faults_do_not_hide_each_other(folder: Path) -> None:
    cut("model.safetensors", -10)(folder)
    remove("tokenizer.json")(folder)
    edit(folder / "tokenizer_config.json", chat_template=None)
    assert codes(folder) == {"weights_torn", "tokenizer_missing", "no_chat_template"}


def test_numbers_tell_which_tokenizer_is_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.text.tokenizer_files.MAX_PADDING", 5)
    remove("tokenizer.json")(folder)
    write_spm(folder / "tokenizer.model", model_type="bpe", vocab_size=310, byte_fallback=True)
    (found,) = [one for one in check(folder) if one.code == "tokenizer_too_small"]
    assert "320 rows" in found.message()
    assert "310 pieces" in found.message()
    assert "piece id is out of range" in found.message("zh")


def test_metas_tokenizer_beside_an_extended_vocabulary(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passes its own checklist, and is wrong for Open-Linly all the same."""
    played = hashlib.md5(b"meta", usedforsecurity=False).hexdigest()
    assert len(METAS_SUM) == len(played)
    monkeypatch.setattr("model.doctor.check_base.METAS_SUM", played)
    metas_tokenizer(folder)
    write("tokenizer_checklist.chk", f"{played}  tokenizer.model\n")(folder)
    assert codes(folder) == {"tokenizer_is_metas"}


# Sums


def sums(folder: Path, name: str, content: bytes, told: bytes) -> None:
    (folder / name).write_bytes(content)
    line = f"{hashlib.md5(told, usedforsecurity=False).hexdigest()}  {name}\n"
    (folder / "checklist.chk").write_text(line, encoding="utf-8")


def test_a_file_that_is_not_what_the_list_tells(folder: Path) -> None:
    sums(folder, "params.json", b"{}", told=b"{}")
    assert codes(folder) == set()
    sums(folder, "params.json", b"{ }", told=b"{}")
    assert codes(folder) == {"checksum_differs"}


def test_what_a_list_names_may_be_absent(folder: Path) -> None:
    sums(folder, "consolidated.00.pth", b"", told=b"")
    remove("consolidated.00.pth")(folder)
    (found,) = [one for one in check(folder) if one.code == "checksum_absent"]
    assert found.level == "note"


def test_large_files_are_compared_when_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.doctor.integrity.QUICK_BYTES", 2)
    sums(folder, "params.json", b"{ }", told=b"{}")
    assert codes(folder) == {"checksum_skipped"}
    assert codes(folder, deep=True) == {"checksum_differs"}


@pytest.mark.parametrize("line", ["no sum", "0" * 32, "0" * 32 + "  ../config.json", "\ufffd"])
def test_lines_that_are_no_sums(line: str, folder: Path) -> None:
    write("checklist.chk", line)(folder)
    assert codes(folder) == {"checksum_list_unreadable"}


# Depth


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers(value: float, folder: Path) -> None:
    def spoil(held: dict[str, Any]) -> None:
        held[Q][1, 2] = held[Q][3, 4] = value

    weights(spoil)(folder)
    assert codes(folder) == set()
    (found,) = [one for one in check(folder, deep=True) if one.code == "tensor_not_finite"]
    assert found.facts["count"] == 2
    assert found.facts["name"] == Q


def test_a_tensor_that_was_never_written(folder: Path) -> None:
    weights(lambda held: held[Q].zero_())(folder)
    assert codes(folder, deep=True) == {"tensor_zero"}


def test_large_finite_numbers_are_numbers(folder: Path) -> None:
    """Their sum is infinite in single precision."""
    weights(lambda held: held[Q].fill_(3e38))(folder)
    assert codes(folder, deep=True) == set()


# The machine


def test_memory_is_held_against_this_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.doctor.hardware.available_memory", lambda: 10**12)
    assert "memory" in {one.code for one in check(folder)}
    monkeypatch.setattr("model.doctor.hardware.available_memory", lambda: 1000)
    (found,) = [one for one in check(folder) if one.code == "memory_short"]
    assert found.level == "warning"


@pytest.mark.parametrize(("capability", "old"), [((7, 0), True), ((7, 5), False), ((9, 0), False)])
def test_an_old_gpu_is_named_with_the_advice(
    capability: tuple[int, int], old: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**12, 10**12))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    found = [one for one in check(folder) if one.code == "gpu_old"]
    assert bool(found) == old
    if found:
        assert "Tesla V100" in found[0].message()
        assert "--quantization 4bit" in found[0].remedy()


def test_pickles_stay_closed_at_the_door(folder: Path) -> None:
    """Opening them takes torch, whose import takes seconds."""
    as_evil_pickle(folder)
    found = quick_check(ModelFolder(folder), pickles=False)
    assert [finding.code for finding in found] == ["pickle_weights"]
