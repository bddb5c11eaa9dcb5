"""`python -m model check`: text and JSON, exit statuses, and folders by name."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from model.__main__ import main
from model.diagnostics import adapter_error
from model.doctor.report import format_bytes
from model.folders import weights

Capture = pytest.CaptureFixture[str]


def run_check(capsys: Capture, *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["check", "--json", *arguments])
    return status, json.loads(capsys.readouterr().out)


def test_json_has_the_documented_fields(tiny_folder: Path, capsys: Capture) -> None:
    status, report = run_check(capsys, str(tiny_folder))
    assert status == 0
    assert (report["ok"], report["kind"], report["problems"]) == (True, "base", [])
    files = {file["name"]: file for file in report["files"]}
    assert files.keys() == {path.name for path in tiny_folder.iterdir()}
    assert files["model.safetensors"]["size"] == (tiny_folder / "model.safetensors").stat().st_size
    assert all(set(file) == {"name", "role", "size"} for file in report["files"])


def test_problems_have_level_code_message_and_remedy(
    tiny_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    status, report = run_check(capsys, str(folder))
    assert (status, report["ok"]) == (1, False)
    assert [(p["level"], p["code"]) for p in report["problems"]] == [
        ("error", "tokenizer_missing"), ("warning", "no_chat_template"),
    ]  # fmt: skip
    assert all(p["message"] and p["remedy"] for p in report["problems"])


def test_report_in_chinese(tiny_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "模型"))
    (folder / "tokenizer.json").unlink()
    assert main(["check", str(folder), "--lang", "zh"]) == 1
    output = capsys.readouterr().out
    assert "模型：基础模型" in output
    assert "模型的尺寸与设置" in output
    assert "错误 [tokenizer_missing]：" in output
    assert "1 个错误，0 个警告。" in output


def test_text_lists_each_file_and_each_problem(
    tiny_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    (folder / "model.safetensors").write_bytes(b"torn")
    (folder / "notes.txt").touch()
    assert main(["check", str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}: a base model"
    assert any("notes.txt" in line and "not needed" in line for line in lines)
    assert any(line.startswith("error [weights_torn]: ") for line in lines)
    assert lines[-1] == "1 error, 0 warnings."


def test_adapter_is_checked_against_its_base(
    tiny_folder: Path, tiny_adapters: Path, capsys: Capture
) -> None:
    adapter = tiny_adapters / "qv"
    status, report = run_check(capsys, str(adapter), "--base_model", str(tiny_folder))
    assert (status, report["kind"]) == (0, "adapter")
    assert {note["code"] for note in report["notes"]} == {"adapter_targets", "adapter_effect"}
    assert [p["code"] for p in report["problems"]] == ["template_untold"]
    _, without_base = run_check(capsys, str(adapter))
    assert "base_untold" in {note["code"] for note in without_base["notes"]}


def test_large_base_is_loaded_only_with_deep(
    tiny_folder: Path, tiny_adapters: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.doctor.check.MAX_PROBED_BYTES", 1)
    arguments = [str(tiny_adapters / "qv"), "--base-model", str(tiny_folder)]
    _, report = run_check(capsys, *arguments)
    assert "adapter_effect" not in {note["code"] for note in report["notes"]}
    _, report = run_check(capsys, *arguments, "--deep")
    assert "adapter_effect" in {note["code"] for note in report["notes"]}


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_config.json", "linly_adapter.json"])
def test_folder_with_one_file_of_an_adapter_is_an_adapter(
    name: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / name).write_text("{}", encoding="utf-8")
    status, report = run_check(capsys, str(tmp_path))
    assert (status, report["kind"]) == (1, "adapter")


@pytest.mark.parametrize(
    ("names", "code"),
    [([], "file_missing"), (["a.gguf"], "needs_conversion"),
     (["a.bin", "a.model"], "needs_conversion"), (["consolidated.00.pth"], "metas_format")],
)  # fmt: skip
def test_folder_of_another_kind_is_described(
    names: list[str], code: str, tmp_path: Path, capsys: Capture
) -> None:
    for name in names:
        (tmp_path / name).touch()
    status, report = run_check(capsys, str(tmp_path))
    assert (status, report["kind"]) == (1, "unknown")
    assert [problem["code"] for problem in report["problems"]] == [code]


@pytest.mark.real_model
@pytest.mark.slow
def test_shipped_folders_are_found_by_name_and_have_no_problems(
    default_folder: Path, capsys: Capture
) -> None:
    assert run_check(capsys, default_folder.name, "--deep")[1]["problems"] == []
    status, report = run_check(capsys, "lighthouse", "--base_model", default_folder.name)
    assert (status, report["problems"]) == (0, [])
    assert "adapter_effect" in {note["code"] for note in report["notes"]}


@pytest.mark.parametrize(
    ("arguments", "status", "expected_text"),
    [
        (["check"], 2, "required: FOLDER"),
        (["check", "x", "--deap"], 2, "Did you mean --deep?"),
        (["check", "x", "--lang", "de"], 2, "invalid choice: 'de'"),
        (["chek"], 2, "invalid choice: 'chek'"),
        ([], 2, "required: COMMAND"),
        (["check", "missing"], 1, "There is no model or adapter missing"),
        (["check", "README.md"], 1, "is a file"),
        (["check", "lighthouse", "--base_model", "missing"], 1, "There is no model folder"),
    ],
)
def test_wrong_option_is_refused_with_one_sentence(
    arguments: list[str], status: int, expected_text: str, capsys: Capture
) -> None:
    assert main(arguments) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert expected_text in line


def test_unexpected_error_is_reported_in_one_sentence(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("unexpected")

    monkeypatch.setattr("model.doctor.check.check_folder", fail)
    assert main(["check", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'unexpected'" in line


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no memory")])
@pytest.mark.parametrize("reader", ["list_safetensors", "check_not_lfs_pointer"])
def test_too_little_memory_is_no_damage(
    error: Exception,
    reader: str,
    tiny_folder: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The weights were called torn."""
    monkeypatch.setattr(weights, reader, Mock(side_effect=error))
    assert main(["check", str(tiny_folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("There is not enough memory. End other programs")


def test_error_that_comes_of_too_little_memory_says_so(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A merge that ran out of memory blamed a layer of the adapter."""
    error = adapter_error("merge_failed", layer="x", reason="y")
    error.__cause__ = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    for raised in (error, error.__cause__):
        monkeypatch.setattr("model.doctor.check.check_folder", Mock(side_effect=raised))
        assert main(["check", "x"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("There is not enough memory.")


def test_help_lists_the_options(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["check", "--help"])
    assert exit_info.value.code == 0
    assert "--base_model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("nbytes", "expected"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (26.4e9, "26.4 GB"),
                          (1.2e12, "1200.0 GB")],
)  # fmt: skip
def test_format_bytes(nbytes: float, expected: str) -> None:
    assert format_bytes(nbytes) == expected
