"""GGUF files that are no complete model: parts of a split one, adapters, pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.__main__ import main
from model.convert.gguf_parts import part_names
from model.folders.model_folder import read_model_folder
from tests.model.convert.gguf_files import write
from tests.model.tokenizers import LIKE_LLAMA, write_spm

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


def split(source: Path, folder: Path, count: int = 2, **changed: int) -> list[Path]:
    """Writes the GGUF file `source` in `count` parts, as llama.cpp's gguf-split does."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    complete = GGUFReader(source)
    folder.mkdir(exist_ok=True)
    files = []
    for number in range(count):
        file = folder / f"m-{number + 1:05d}-of-{count:05d}.gguf"
        part = GGUFWriter(file, "llama")
        for field in complete.fields.values() if number == 0 else ():
            if field.name.startswith("GGUF.") or field.name == "general.architecture":
                continue
            if field.types[0] == GGUFValueType.ARRAY:
                part.add_array(field.name, field.contents())
            else:
                part.add_key_value(field.name, field.contents(), field.types[0])
        part.add_uint16("split.no", changed.get("no", number))
        part.add_uint16("split.count", changed.get("of", count))
        part.add_int32("split.tensors.count", changed.get("total", len(complete.tensors)))
        for tensor in complete.tensors[number::count]:
            part.add_tensor(tensor.name, np.array(tensor.data))
        part.write_header_to_file()
        part.write_kv_data_to_file()
        part.write_tensors_to_file()
        part.close()
        files.append(file)
    return files


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    spm = write_spm(tmp_path / "source.model", **LIKE_LLAMA)
    return write(tmp_path / "complete.gguf", spm)


def convert(source: Path, destination: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Converts `source`, which fails; returns the error."""
    assert main(["convert", str(source), str(destination)]) == 1
    error_text = capsys.readouterr().err
    assert "Traceback" not in error_text
    assert not destination.exists()
    return error_text


@pytest.mark.parametrize("named", ["folder", "first part", "last part"])
def test_split_file_is_converted_as_one(named: str, tmp_path: Path, complete: Path) -> None:
    """A part was taken for a torn model, and a folder of parts for several models."""
    parts = split(complete, tmp_path / "parts", 3)
    source = {"folder": parts[0].parent, "first part": parts[0], "last part": parts[2]}[named]
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    assert main(["convert", str(complete), str(tmp_path / "expected")]) == 0
    found, expected = (
        {t.name: t.read() for _, t in read_model_folder(tmp_path / name).tensors()}
        for name in ("out", "expected")
    )
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("missing", [0, 1])
def test_missing_part_is_named(
    missing: int, tmp_path: Path, complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = split(complete, tmp_path / "parts")
    parts[missing].unlink()
    for source in (parts[0].parent, parts[1 - missing]):
        error_text = convert(source, tmp_path / "out", capsys)
        assert f"part {missing + 1} is not there: {parts[missing].name}" in error_text


def test_renamed_part_is_named(
    tmp_path: Path, complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = split(complete, tmp_path / "parts")
    renamed = parts[1].rename(tmp_path / "second.gguf")
    assert "part 2 of a model that is split into 2" in convert(renamed, tmp_path / "out", capsys)


@pytest.mark.parametrize(
    ("changed", "expected_text"),
    [
        ({"no": 0}, "00002.gguf is not part 2 of 2"),
        ({"of": 3}, "00002.gguf is not part 1 of 2"),
        ({"total": 5}, "weights together, but it has 5"),
    ],
)
def test_parts_of_different_models_are_refused(
    changed: dict[str, int], expected_text: str, tmp_path: Path, complete: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    parts = split(complete, tmp_path / "parts", **changed)
    assert expected_text in convert(parts[0], tmp_path / "out", capsys)


def test_torn_part_is_named(
    tmp_path: Path, complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = split(complete, tmp_path / "parts")
    parts[1].write_bytes(parts[1].read_bytes()[:100])
    assert parts[1].name in convert(parts[0], tmp_path / "out", capsys)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.gguf", ["m.gguf"]),
        ("m-00001-of-00001.gguf", ["m-00001-of-00001.gguf"]),
        ("q/m-00002-of-00002.gguf", ["q/m-00001-of-00002.gguf", "q/m-00002-of-00002.gguf"]),
        ("m-00003-of-00002.gguf", ["m-00003-of-00002.gguf"]),
        ("m-00000-of-00002.gguf", ["m-00000-of-00002.gguf"]),
        ("m-00001-of-99999.gguf", ["m-00001-of-99999.gguf"]),
    ],
)
def test_names_of_parts(name: str, expected: list[str]) -> None:
    assert part_names(name) == expected


def add_lora(writer: Any) -> None:
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")


@pytest.mark.parametrize(
    ("extra", "expected_text"),
    [
        (add_lora, "an adapter (LoRA), not a model"),
        (
            lambda writer: writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 64))),
            "an adapter (LoRA), not a model",
        ),
        (lambda writer: writer.add_type("vocab"), "vocab"),
        (lambda writer: writer.add_type("imatrix"), "imatrix"),
    ],
)
def test_file_without_a_model_is_named(
    extra: Any, expected_text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A LoRA was called a model whose weights are missing, to be downloaded again."""
    spm = write_spm(tmp_path / "source.model", **LIKE_LLAMA)
    source = write(tmp_path / "m.gguf", spm, extra=extra)
    assert expected_text in convert(source, tmp_path / "out", capsys)


@pytest.mark.parametrize("name", ["m.Q8_0.gguf-split-a", "m.gguf.part1of2"])
def test_piece_of_a_cut_file_is_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pieces"
    folder.mkdir()
    (folder / name).write_bytes(b"GGUF")
    for source in (folder, folder / name):
        assert "cat PIECE1 PIECE2" in convert(source, tmp_path / "out", capsys)
