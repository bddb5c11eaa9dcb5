"""Checks of a base's folder: each fault has its code, and a sound folder has none."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import model.doctor.check_base as doctor
from model.diagnostics import Finding
from model.doctor.check_base import check_base, quick_check
from model.errors import ModelFolderError
from model.folders.model_folder import ModelFolder
from tests.model.doctor.changes import Change, change_tensors, edit_json
from tests.model.tokenizers import write_spm

WEIGHTS = "model.safetensors"


def no_bar(title: str, nbytes: int) -> Any:
    return nullcontext(lambda share: None)


def check(folder: Path, deep: bool = False) -> list[Finding]:
    return list(check_base(folder, deep=deep, bar=no_bar))


def codes(folder: Path, deep: bool = False) -> set[str]:
    """The codes of the findings, except those about this machine's memory."""
    return {finding.code for finding in check(folder, deep)} - {"memory", "memory_short"}


@pytest.fixture(autouse=True)
def no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison with transformers takes seconds; `test_check_template` has it."""
    monkeypatch.setattr(doctor, "compare_template", lambda source, tokenizer: iter(()))


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of a sound model, to be damaged."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "模型 tiny"))


def weights(change: Callable[[dict[str, Any]], object]) -> Change:
    return change_tensors(WEIGHTS, change)


def config(**changes: Any) -> Change:
    return lambda folder: edit_json(folder / "config.json", **changes)


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


class CodeInPickle:
    """A pickle that runs code when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("open('pwned', 'w')",)


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_pickle_with_code(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"w": CodeInPickle()}, folder / "pytorch_model.bin")


def in_shards(index: Callable[[dict[str, str]], object]) -> Change:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-1-of-1.safetensors")
        files = dict.fromkeys(tensors, "model-1-of-1.safetensors")
        index(files)
        edit_json(folder / "model.safetensors.index.json", weight_map=files)

    return apply


def metas_tokenizer(folder: Path) -> None:
    """Writes a file in place of Meta's, which may not be copied; the test replaces its checksum."""
    (folder / "tokenizer.model").write_bytes(b"meta")


def longrope(**changes: Any) -> Change:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64}
    return config(rope_parameters={**rope, **factors, **changes})


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
    ("scaled positions", config(rope_parameters={"rope_type": "dynamic", "factor": 2.0,
     "rope_theta": 1e4}), {"rope_limited"}),
    *((f"rope {kind}", config(rope_parameters={"rope_type": kind, "rope_theta": 1e4}),
     {"rope_unknown"}) for kind in ("su", "mrope", "ntk")),
    *((f"{name} {factors}", longrope(**{name: factors}), {"rope_table"}) for name in
     ("short_factor", "long_factor") for factors in ([1.0], [1.0] * 3, [1.0] * 5, [], "x")),
    ("no frequencies", longrope(short_factor=[0.0] * 4), {"rope_unknown"}),
    ("no length", longrope(original_max_position_embeddings=-1), {"rope_unknown"}),
    ("part of a head", config(partial_rotary_factor=0.5, rope_parameters={"rope_type": "linear",
     "factor": 2.0, "rope_theta": 1e4}), {"rope_table"}),
    ("no weights", remove("model.safetensors"), {"weights_missing"}),
    ("torn weights", cut("model.safetensors", -10), {"weights_torn"}),
    ("empty weights", cut("model.safetensors", 0), {"weights_torn"}),
    ("a pointer of git-lfs", write("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
     {"lfs_pointer"}),
    ("a missing tensor", weights(lambda tensors: tensors.pop(NORM)), {"tensor_missing"}),
    ("a tensor too many", weights(lambda tensors: tensors.update(unknown=torch.zeros(2))),
     {"tensor_unknown"}),
    ("another shape", weights(lambda tensors: tensors.update({NORM: torch.zeros(3)})),
    {"tensor_shape"}), ("another layer count", config(num_hidden_layers=1), {"tensor_unknown"}),
    ("pickles", as_pickle, {"pickle_weights"}), ("pickles with code", as_pickle_with_code,
    {"pickle_weights", "pickle_runs_code"}), ("an index with a path out of the folder",
    in_shards(lambda tensors: tensors.update({NORM: "../x.safetensors"})),
     {"index_unsound"}),
    ("an index with a missing file",
     in_shards(lambda files: files.update({NORM: "2.safetensors"})), {"shards_missing"}),
    ("an index that differs",
     in_shards(lambda files: files.update(unknown="model-1-of-1.safetensors")), {"index_differs"}),
    ("no tokenizer", remove("tokenizer.json"), {"tokenizer_missing"}),
    ("torn tokenizer", cut("tokenizer.json", 100), {"tokenizer_unreadable"}),
    ("a broken name", lambda f: edit_json(f / "tokenizer_config.json", bos_token=""),
     {"special_token_broken"}),
    ("a broken id", config(pad_token_id=-1), {"special_token_broken"}),
    ("no end", lambda f: [edit_json(f / n, eos_token=None, eos_token_id=None) for n in
     ("tokenizer_config.json", "config.json", "generation_config.json")], {"eos_missing"}),
    ("torn chat template", write("chat_template.jinja", "{% for m in messages %}{{ m.cont"),
     {"chat_template_broken"}),
    ("an unknown filter", write("chat_template.jinja", "{{ messages[0].content | shout }}"),
     {"chat_template_broken"}),
    ("a template that refuses a question",
     write("chat_template.jinja", "{{ raise_exception('no questions') }}"),
     {"chat_template_broken"}),
    ("no chat template", lambda f: edit_json(f / "tokenizer_config.json", chat_template=None),
     {"no_chat_template"}),
]  # fmt: skip


def test_a_sound_folder_has_no_problems(folder: Path) -> None:
    assert codes(folder, deep=True) == set()


@pytest.mark.parametrize(
    ("change", "expected"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_every_fault_has_its_code(change: Change, expected: set[str], folder: Path) -> None:
    change(folder)
    findings = check(folder)
    assert codes(folder) == expected
    for finding in findings:
        for language in ("en", "zh"):
            assert finding.message(language)
            assert finding.remedy(language) or finding.level == "note"
    assert not Path("pwned").exists()


@pytest.mark.parametrize("length", [64, 65])
def test_longrope_is_served_up_to_its_original_length(length: int, folder: Path) -> None:
    from model.weight_loader import load_model

    longrope()(folder)
    (warning,) = [found for found in check(folder) if found.code == "rope_limited"]
    assert (warning.level, warning.facts["length"]) == ("warning", 64)

    def load(context_length: int | None) -> int:
        return load_model(
            ModelFolder(folder), quantization="none", device="cpu", context_length=context_length,
            progress=lambda _: None,
        ).context_length  # fmt: skip

    assert load(None) == 64
    if length == 64:
        assert load(length) == 64
    else:
        with pytest.raises(ModelFolderError, match="Pass --context_length 64 or less"):
            load(length)


def test_faults_do_not_hide_each_other(folder: Path) -> None:
    cut("model.safetensors", -10)(folder)
    remove("tokenizer.json")(folder)
    edit_json(folder / "tokenizer_config.json", chat_template=None)
    assert codes(folder) == {"weights_torn", "tokenizer_missing", "no_chat_template"}


def test_tokenizer_too_small_has_the_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.text.tokenizer_files.MAX_PADDING", 5)
    remove("tokenizer.json")(folder)
    write_spm(folder / "tokenizer.model", model_type="bpe", vocab_size=310, byte_fallback=True)
    (result,) = [finding for finding in check(folder) if finding.code == "tokenizer_too_small"]
    assert "320 rows" in result.message()
    assert "310 pieces" in result.message()
    assert "piece id is out of range" in result.message("zh")


def test_metas_tokenizer_beside_an_extended_vocabulary_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the checksum of its list, but is wrong for Open-Linly."""
    checksum = hashlib.md5(b"meta", usedforsecurity=False).hexdigest()
    monkeypatch.setattr("model.doctor.check_base.METAS_MD5", checksum)
    metas_tokenizer(folder)
    write("tokenizer_checklist.chk", f"{checksum}  tokenizer.model\n")(folder)
    assert codes(folder) == {"tokenizer_is_metas"}


# Checksums


def write_with_checksum(folder: Path, name: str, content: bytes, listed: bytes) -> None:
    (folder / name).write_bytes(content)
    line = f"{hashlib.md5(listed, usedforsecurity=False).hexdigest()}  {name}\n"
    (folder / "checklist.chk").write_text(line, encoding="utf-8")


def test_file_that_differs_from_its_checksum_is_an_error(folder: Path) -> None:
    write_with_checksum(folder, "params.json", b"{}", listed=b"{}")
    assert codes(folder) == set()
    write_with_checksum(folder, "params.json", b"{ }", listed=b"{}")
    assert codes(folder) == {"checksum_differs"}


def test_listed_file_that_does_not_exist_is_a_note(folder: Path) -> None:
    write_with_checksum(folder, "consolidated.00.pth", b"", listed=b"")
    remove("consolidated.00.pth")(folder)
    (result,) = [finding for finding in check(folder) if finding.code == "checksum_absent"]
    assert result.level == "note"


def test_large_files_are_compared_only_with_deep(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.doctor.integrity.QUICK_BYTES", 2)
    write_with_checksum(folder, "params.json", b"{ }", listed=b"{}")
    assert codes(folder) == {"checksum_skipped"}
    assert codes(folder, deep=True) == {"checksum_differs"}


@pytest.mark.parametrize("line", ["no sum", "0" * 32, "0" * 32 + "  ../config.json", "\ufffd"])
def test_lines_without_a_checksum_are_reported(line: str, folder: Path) -> None:
    write("checklist.chk", line)(folder)
    assert codes(folder) == {"checksum_list_unreadable"}


# Values


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_deep_check_finds_values_that_are_not_finite(value: float, folder: Path) -> None:
    def set_values(tensors: dict[str, Any]) -> None:
        tensors[Q][1, 2] = tensors[Q][3, 4] = value

    weights(set_values)(folder)
    assert codes(folder) == set()
    (result,) = [
        finding for finding in check(folder, deep=True) if finding.code == "tensor_not_finite"
    ]
    assert result.facts["count"] == 2
    assert result.facts["name"] == Q


def test_deep_check_finds_a_tensor_of_zeros(folder: Path) -> None:
    weights(lambda tensors: tensors[Q].zero_())(folder)
    assert codes(folder, deep=True) == {"tensor_zero"}


def test_deep_check_accepts_large_finite_values(folder: Path) -> None:
    """Their sum is infinite in single precision."""
    weights(lambda tensors: tensors[Q].fill_(3e38))(folder)
    assert codes(folder, deep=True) == set()


# Hardware


def test_needed_memory_is_compared_with_free_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.doctor.hardware.available_memory", lambda: 10**12)
    assert "memory" in {finding.code for finding in check(folder)}
    monkeypatch.setattr("model.doctor.hardware.available_memory", lambda: 1000)
    (result,) = [finding for finding in check(folder) if finding.code == "memory_short"]
    assert result.level == "warning"


@pytest.mark.parametrize(("capability", "old"), [((7, 0), True), ((7, 5), False), ((9, 0), False)])
def test_old_gpu_is_a_finding_with_a_remedy(
    capability: tuple[int, int], old: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**12, 10**12))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla V100")
    findings = [finding for finding in check(folder) if finding.code == "gpu_old"]
    assert bool(findings) == old
    if findings:
        assert "Tesla V100" in findings[0].message()
        assert "--quantization 4bit" in findings[0].remedy()


def test_quick_check_does_not_open_pickles(folder: Path) -> None:
    """Opening them takes torch, whose import takes seconds."""
    as_pickle_with_code(folder)
    findings = quick_check(ModelFolder(folder), pickles=False)
    assert [finding.code for finding in findings] == ["pickle_weights"]
