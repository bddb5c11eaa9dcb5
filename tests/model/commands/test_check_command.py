"""`python -m model check`: text and JSON, exit statuses, and folders by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.__main__ import main
from model.doctor.report import human

Capture = pytest.CaptureFixture[str]


def checked(capsys: Capture, *words: str) -> tuple[int, dict[str, Any]]:
    status = main(["check", "--json", *words])
    return status, json.loads(capsys.readouterr().out)


def test_the_json_has_the_agreed_fields(tiny_folder: Path, capsys: Capture) -> None:
    status, told = checked(capsys, str(tiny_folder))
    assert status == 0
    assert (told["ok"], told["kind"], told["problems"]) == (True, "base", [])
    files = {file["name"]: file for file in told["files"]}
    assert files.keys() == {path.name for path in tiny_folder.iterdir()}
    assert files["model.safetensors"]["size"] == (tiny_folder / "model.safetensors").stat().st_size
    assert all(set(file) == {"name", "role", "size"} for file in told["files"])


def test_problems_have_level_code_message_and_remedy(
    tiny_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "broken"))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    status, told = checked(capsys, str(folder))
    assert (status, told["ok"]) == (1, False)
    assert [(p["level"], p["code"]) for p in told["problems"]] == [
        ("error", "tokenizer_missing"), ("warning", "no_chat_template"),
    ]  # fmt: skip
    assert all(p["message"] and p["remedy"] for p in told["problems"])


def test_it_speaks_chinese(tiny_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "模型"))
    (folder / "tokenizer.json").unlink()
    assert main(["check", str(folder), "--lang", "zh"]) == 1
    said = capsys.readouterr().out
    assert "模型：基础模型" in said
    assert "模型的尺寸与设置" in said
    assert "错误 [tokenizer_missing]：" in said
    assert "1 个错误，0 个警告。" in said


def test_the_text_tells_each_file_and_each_problem(
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


def test_an_adapter_is_held_against_its_base(
    tiny_folder: Path, tiny_adapters: Path, capsys: Capture
) -> None:
    adapter = tiny_adapters / "qv"
    status, told = checked(capsys, str(adapter), "--base_model", str(tiny_folder))
    assert (status, told["kind"]) == (0, "adapter")
    assert {note["code"] for note in told["notes"]} == {"adapter_targets", "adapter_effect"}
    assert [p["code"] for p in told["problems"]] == ["template_untold"]
    _, alone = checked(capsys, str(adapter))
    assert "base_untold" in {note["code"] for note in alone["notes"]}


def test_a_large_base_is_only_loaded_when_asked_for(
    tiny_folder: Path, tiny_adapters: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.doctor.check.PROBED_BYTES", 1)
    words = [str(tiny_adapters / "qv"), "--base-model", str(tiny_folder)]
    _, told = checked(capsys, *words)
    assert "adapter_effect" not in {note["code"] for note in told["notes"]}
    _, told = checked(capsys, *words, "--deep")
    assert "adapter_effect" in {note["code"] for note in told["notes"]}


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_config.json", "linly_adapter.json"])
def test_half_an_adapter_is_an_adapter(name: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / name).write_text("{}", encoding="utf-8")
    status, told = checked(capsys, str(tmp_path))
    assert (status, told["kind"]) == (1, "adapter")


@pytest.mark.parametrize(
    ("names", "code"),
    [([], "file_missing"), (["a.gguf"], "needs_conversion"),
     (["a.bin", "a.model"], "needs_conversion"), (["consolidated.00.pth"], "metas_format")],
)  # fmt: skip
def test_what_is_neither_is_named(
    names: list[str], code: str, tmp_path: Path, capsys: Capture
) -> None:
    for name in names:
        (tmp_path / name).touch()
    status, told = checked(capsys, str(tmp_path))
    assert (status, told["kind"]) == (1, "unknown")
    assert [problem["code"] for problem in told["problems"]] == [code]


@pytest.mark.real_model
def test_shipped_folders_are_found_by_name_and_sound(default_folder: Path, capsys: Capture) -> None:
    assert checked(capsys, default_folder.name, "--deep")[1]["problems"] == []
    status, told = checked(capsys, "lighthouse", "--base_model", default_folder.name)
    assert (status, told["problems"]) == (0, [])
    assert "adapter_effect" in {note["code"] for note in told["notes"]}


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["check"], 2, "required: FOLDER"),
        (["check", "x", "--deap"], 2, "Did you mean --deep?"),
        (["check", "x", "--lang", "de"], 2, "invalid choice: 'de'"),
        (["chek"], 2, "invalid choice: 'chek'"),
        ([], 2, "required: COMMAND"),
        (["check", "nowhere"], 1, "There is no model or adapter nowhere"),
        (["check", "README.md"], 1, "is a file"),
        (["check", "lighthouse", "--base_model", "nowhere"], 1, "There is no model folder"),
    ],
)
def test_wrong_use_is_one_sentence(
    words: list[str], status: int, says: str, capsys: Capture
) -> None:
    assert main(words) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_what_nobody_has_thought_of_is_a_sentence_too(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("odd")

    monkeypatch.setattr("model.doctor.check.check_folder", fail)
    assert main(["check", "x"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'odd'" in line


def test_help_suffices(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", "--help"])
    assert ended.value.code == 0
    assert "--base_model" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("nbytes", "shown"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (26.4e9, "26.4 GB"),
                          (1.2e12, "1200.0 GB")],
)  # fmt: skip
def test_sizes_are_told_as_people_read_them(nbytes: float, shown: str) -> None:
    assert human(nbytes) == shown
