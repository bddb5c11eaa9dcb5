"""Folders that strangers made: each attack is one sentence about that folder, and no more.

Attacks that once hung or killed the whole process run in a process of their own, which is the
only place where time is measured: it is killed when the attack succeeds.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from model.base_resolver import base_name
from model.config.settings import CHECKOUT, read_settings
from model.display import MAX_DESCRIPTION
from model.errors import LinlyError, ModelFolderError, RequestError
from model.folders import lazy_tensor
from model.folders.lazy_tensor import LARGE
from model.folders.model_config import MAX_SIZES
from model.folders.model_folder import read_model_folder
from model.folders.weights import list_tensors, read_tensors
from model.serving import adapter_folders
from model.serving.adapter_folders import AdapterFolders
from model.serving.adapter_registry import AdapterRegistry
from model.text.prompt import PromptTemplate, load_templates
from model.text.tokenizer_files import read_tokenizer
from model.types import Message
from tests.model.serving.adapters import BASE, problem_text, write_adapter
from tests.model.tokenizers import make_spm
from tests.tiny import make_folder, write_tokenizer

HANG_SECONDS = 300  # by far more than any of these takes, on any machine
GBK = os.fsdecode("小灯".encode("gbk"))
CATASTROPHIC = r"([\w.]+)+\d"  # 2^30 ways to cut a name of 31 letters into parts


def survives(code: str, *args: object) -> str:
    """What `code` prints, run in a process that is killed when it hangs."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=HANG_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-500:]}"
    return done.stdout


LOOK = """
import sys
from pathlib import Path
from model.serving.adapter_registry import AdapterRegistry
from tests.model.serving.adapters import BASE
for one in AdapterRegistry(Path(sys.argv[1]), BASE, ("linly",)).scan():
    print(one.name, one.problem.message() if one.problem else "ready")
"""


# Patterns


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_that_backtracks_without_end_hangs_nothing(key: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "bad", {key: {CATASTROPHIC: 3}})
    write_adapter(tmp_path / "good")
    assert survives(LOOK, tmp_path) == "bad ready\ngood ready\n"  # it matches nothing, at once


@pytest.mark.parametrize(
    "pattern", [r"(q)_\1roj", r"(?=q)q_proj", "q_proj{,3}", "q" * 2000, "[q", "\ud800", "a{2000}"]
)
def test_a_pattern_that_cannot_be_matched_in_one_pass_is_named(
    pattern: str, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "bad", {"rank_pattern": {pattern: 3}})
    said = problem_text(tmp_path)
    assert "rank_pattern" in said
    assert "very slow to match" in said
    said.encode()


@pytest.mark.parametrize(
    "number", [10**9, -1, 0, True, "3", None, [3], float("nan"), float("inf"), 10**400]
)
@pytest.mark.parametrize("key", ["r", "lora_alpha", "rank_pattern", "alpha_pattern"])
def test_absurd_numbers_are_refused_by_name(key: str, number: Any, tmp_path: Path) -> None:
    if key == "r" and number is None:
        return  # then the weights tell
    value = {"q_proj": number} if key.endswith("pattern") else number
    write_adapter(tmp_path / "bad", {key: value})
    said = problem_text(tmp_path)
    assert key in said or "rank" in said


def test_a_merge_matches_no_foreign_pattern(tmp_path: Path) -> None:
    """peft matches target_modules by backtracking."""
    write_adapter(tmp_path / "bad", {
        "target_modules": CATASTROPHIC, "exclude_modules": CATASTROPHIC,
        "rank_pattern": {CATASTROPHIC: 9, "q_proj|down_proj": 3},
    })  # fmt: skip
    code = """
import sys
from pathlib import Path
from model.merge.weights import Merger, read_adapter
import torch
adapter = read_adapter(Path(sys.argv[1]), 1.0)
name = "model.layers.0.self_attn.q_proj"
merged = Merger(name, [adapter]).rows(torch.zeros(32, 16), 0, 32)
print(bool(merged.any()))
"""
    assert survives(code, tmp_path / "bad").strip() == "True"


# Names and descriptions


@pytest.mark.parametrize(
    "name", [GBK, "two\nlines", "\u202egnp.exe", "zero\u200bwidth", "bell\x07", " poet", "\ufdd0"]
)
def test_a_name_that_is_no_plain_text_is_told_and_not_used(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / name)
    write_adapter(tmp_path / "good")
    found = AdapterRegistry(tmp_path, BASE, ()).scan()
    assert [one.name for one in found if one.ready] == ["good"]
    (bad,) = [one for one in found if not one.ready]
    assert bad.problem
    assert bad.name.isprintable()
    bad.name.encode()
    assert "Rename" in bad.problem.remedy()


@pytest.mark.parametrize("name", ["小灯", "poet-7b.v2", "two words", "naïve", "👩\u200d🚀"])
def test_names_that_are_text_are_used(name: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / name)
    assert [(a.name, a.ready) for a in AdapterRegistry(tmp_path, BASE, ()).scan()] == [(name, True)]


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("half \ud800 a letter", "half \ufffd a letter"),
        ("\u202eabc\u2066\nnew\x00line", "abc new line"),
        ("x" * 1_000_000, "x" * (MAX_DESCRIPTION - 1) + "…"),
        (["a", "list"], ""),
        ("家里的小灯", "家里的小灯"),
    ],
)
def test_descriptions_are_cleaned(told: Any, shown: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", card={"description": told[:900_000]})
    (found,) = AdapterRegistry(tmp_path, BASE, ()).scan()
    assert found.ready
    assert found.description == shown


def test_findings_show_no_control_characters(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", card={"base_model": "x\u202e\ud800\n" + "y" * 5000})
    (found,) = AdapterRegistry(tmp_path, BASE, ()).scan()
    said = "".join(one.message() for one in found.warnings)
    said.encode()
    assert "\u202e" not in said
    assert len(said) < 2000


def test_a_templates_description_and_a_bases_name_are_cleaned(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('description = "a\\u202eb"\ntemplate = "x"', encoding="utf-8")
    assert load_templates(tmp_path)["t"].description == "ab"
    settings = read_settings([f"--base_model=/models/{GBK}"], {})
    assert base_name(settings) == r"С\xb5\xc6"  # two of its bytes happen to be a letter


# Files


@pytest.mark.parametrize(
    "name",
    ["adapter_model.safetensors", "linly_adapter.json", "tokenizer.json", "adapter_config.json"],
)
def test_a_fifo_is_not_waited_for(name: str, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "bad")
    (path / name).unlink(missing_ok=True)
    os.mkfifo(path / name)
    write_adapter(tmp_path / "good")
    assert "good ready" in survives(LOOK, tmp_path)


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
    said = problem_text(tmp_path)
    assert "outside its folder" in said or "has no" in said


def test_the_hubs_cache_is_made_of_links(tmp_path: Path) -> None:
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
def test_json_that_is_too_large_or_too_deep(name: str, content: str, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "bad")
    (path / name).write_text(content)
    said = problem_text(tmp_path)
    assert "larger than 1 MB" in said or "nested too deeply" in said


def test_weights_that_shrink_while_they_are_read_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a mapping that ended the process (SIGBUS)."""
    file = write_adapter(tmp_path / "a") / "adapter_model.safetensors"
    tensor = list_tensors(file)[-1]
    read_into = lazy_tensor.read_into

    def cut_short(opened: Any, memory: memoryview) -> None:
        os.truncate(file, 10)
        read_into(opened, memory)

    monkeypatch.setattr(lazy_tensor, "read_into", cut_short)
    with pytest.raises(ModelFolderError, match="became shorter") as caught:
        tensor.read()
    assert caught.value.remedy


def test_copying_over_an_adapter_in_use_kills_nothing(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from model.serving.adapter_registry import AdapterRegistry
from model.folders.weights import list_tensors
from tests.model.serving.adapters import BASE, PairMaker
folder = Path(sys.argv[1])
found = AdapterRegistry(folder, BASE, ("linly",))
lora = found.load("a", found.get("a").digest, PairMaker())
held = [tensor.read() for tensor in list_tensors(folder / "a" / "adapter_model.safetensors")]
os.truncate(folder / "a" / "adapter_model.safetensors", 0)
total = sum(float(p.a.sum() + p.b.sum()) for p in lora.pairs.values())
total += sum(float(t.sum()) for t in held)
print(total == total)
"""
    write_adapter(tmp_path / "a")
    assert survives(code, tmp_path).strip() == "True"


# Tables of tensors


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


@pytest.mark.parametrize(
    "header",
    [
        entry(shape=[10**12, 10**12]),
        entry(shape=[-2]),
        entry(shape=[True, 2]),
        entry(shape=[2.0]),
        entry(shape="2"),
        entry(shape=[1] * 9 + [2]),
        entry(dtype="F99"),
        entry(dtype=["F32"]),
        entry(data_offsets=[-8, 0]),
        entry(data_offsets=[4, 12]),
        entry(data_offsets=[8, 0]),
        entry(data_offsets=[0, 10**18]),
        entry(data_offsets=[0]),
        {"w": []},
        [],
        {"a\u202e": entry()["w"]},
        {"": entry()["w"]},
        {"x" * 1000: entry()["w"]},
        {"a": entry()["w"], "b": entry()["w"]},  # one over the other
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_table_of_tensors_that_makes_no_sense(header: Any, tmp_path: Path) -> None:
    file = written(tmp_path / "w.safetensors", header, b"\0" * 8)
    with pytest.raises(ModelFolderError) as caught:
        dict(read_tensors(list_tensors(file)))
    assert caught.value.remedy


@pytest.mark.parametrize("length", [2**63, 10**9, 500])
def test_a_table_that_is_longer_than_its_file(length: int, tmp_path: Path) -> None:
    file = written(tmp_path / "w.safetensors", b"{}", length=length)
    with pytest.raises(ModelFolderError, match=r"table|too early"):
        list_tensors(file)


def test_a_tensor_for_which_there_is_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sparse file takes nothing on the disk."""
    header = entry(shape=[LARGE // 4], data_offsets=[0, LARGE])
    file = written(tmp_path / "w.safetensors", header)
    os.truncate(file, file.stat().st_size + LARGE)
    monkeypatch.setattr(lazy_tensor, "available_memory", lambda: LARGE - 1)
    (tensor,) = list_tensors(file)
    with pytest.raises(ModelFolderError, match="memory"):
        tensor.read()


# PyTorch files


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.bin", tmp_path / "bad.bin"
    torch.save({"w": torch.zeros(100_000)}, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    assert list_tensors(good)
    with pytest.raises(ModelFolderError, match="contents are larger"):
        list_tensors(bad)


def test_an_endless_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.bin"
    torch.save({"w": torch.zeros(4)}, file)
    monkeypatch.setattr("model.folders.torch_archive.MAX_MEMBERS", 3)
    with pytest.raises(ModelFolderError, match="more than 3 members"):
        list_tensors(file)
    monkeypatch.undo()
    monkeypatch.setattr("model.folders.torch_archive.MAX_PICKLE_BYTES", 3)
    with pytest.raises(ModelFolderError, match="its pickle"):
        list_tensors(file)


def test_one_value_told_to_fill_a_matrix_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1).expand(50_000, 50_000)}, tmp_path / "w.bin")
    with pytest.raises(ModelFolderError, match="does not match the file"):
        list_tensors(tmp_path / "w.bin")


def test_an_adapter_in_the_old_format_is_refused(tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "a")
    (path / "adapter_model.safetensors").unlink()
    torch.save({"w": torch.zeros(2)}, path / "adapter_model.bin",
               _use_new_zipfile_serialization=False)  # fmt: skip
    assert "old format" in problem_text(tmp_path)


# Bases


@pytest.mark.parametrize("value", [10**12, -1, 0, True, 1.5, "8"])
@pytest.mark.parametrize("key", list(MAX_SIZES))
def test_absurd_sizes_of_a_base_are_refused_by_name(key: str, value: Any, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    make_folder(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelFolderError, match=key):
        read_model_folder(folder)


# Tokenizers


def with_tokenizer(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps({**data, **changes}), encoding="utf-8")
    return folder


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


READ = """
import sys
from pathlib import Path
from model.text.tokenizer_files import read_tokenizer
from model.text.tokenizer import TextSpan
from model.errors import LinlyError
try:
    read_tokenizer(Path(sys.argv[1]))[0].encode([TextSpan("a" * 200_000, control=False)])
    print("read")
except LinlyError as error:
    print(error)
"""


def test_a_pre_tokenizer_that_backtracks_hangs_nothing(tmp_path: Path) -> None:
    """It kept the interpreter's lock: 100,000 letters took 16 seconds, twice as many a minute."""
    inner = {"type": "Sequence", "pretokenizers": [split(r"a+b")]}
    folder = with_tokenizer(tmp_path / "t", pre_tokenizer=inner)
    assert "a+b" in survives(READ, folder)


def test_a_normaliser_that_doubles_and_doubles_fills_no_memory(tmp_path: Path) -> None:
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    twice = {"type": "Sequence", "normalizers": [double] * 40}
    folder = with_tokenizer(tmp_path / "t", normalizer=twice)
    assert "without limit" in survives(READ, folder)


def test_a_sentencepiece_normaliser_that_grows_is_refused(tmp_path: Path) -> None:
    from sentencepiece import sentencepiece_model_pb2 as proto

    make_spm(tmp_path)
    file = tmp_path / "tokenizer.model"
    model = proto.ModelProto.FromString(file.read_bytes())
    model.normalizer_spec.precompiled_charsmap = struct.pack("<I", 4) + b"\0\0\0\0" + b"x" * 9999
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFolderError, match="not a SentencePiece model"):
        read_tokenizer(tmp_path)


# Scans


def test_a_folder_whose_disk_does_not_answer_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    for name in ("a", "hangs", "z"):
        write_adapter(tmp_path / name)
    made = AdapterRegistry(tmp_path, BASE, (), timeout=0.5)
    read_adapter = adapter_folders.read_adapter

    def slow(path: Path, *args: Any) -> Any:
        if path.name == "hangs":
            answers.wait()
        return read_adapter(path, *args)

    monkeypatch.setattr(adapter_folders, "read_adapter", slow)
    for _ in range(2):  # the second scan does not wait for it again
        found = {one.name: one for one in made.scan()}
        assert found["a"].ready
        assert found["z"].ready
        assert found["hangs"].problem
        assert "still being read" in found["hangs"].problem.message()
    assert made.get("z").ready
    answers.set()
    while not {one.name: one for one in made.scan()}["hangs"].ready:
        threading.Event().wait(0.01)


@pytest.mark.parametrize(
    "fault", [MemoryError(), RecursionError(), OverflowError("far"), BaseException("panic")]
)
def test_any_fault_is_one_folders_verdict(
    fault: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_adapter(tmp_path / "bad")
    write_adapter(tmp_path / "good")
    check = adapter_folders.check_adapter

    def failing(path: Path, *args: Any) -> Any:
        if path.name == "bad":
            raise fault
        return check(path, *args)

    monkeypatch.setattr(adapter_folders, "check_adapter", failing)
    found = {one.name: one.ready for one in AdapterRegistry(tmp_path, BASE, ()).scan()}
    assert found == {"bad": False, "good": True}


def test_folders_that_have_not_changed_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        write_adapter(tmp_path / f"a{number:02}")
    made = AdapterRegistry(tmp_path, BASE, ())
    made.scan()
    monkeypatch.setattr(adapter_folders, "read_adapter", None)  # calling it would fail
    assert len(made.scan()) == 20
    checked: list[Path] = []
    file_stamp = adapter_folders.file_stamp
    monkeypatch.setattr(
        adapter_folders, "file_stamp", lambda path: (checked.append(path), file_stamp(path))[1]
    )
    assert made.get("a07").ready
    assert [path.name for path in checked] == ["a07"], "a request pays for its own adapter alone"


def test_so_many_folders_are_looked_at_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(adapter_folders, "MAX_ADAPTERS", 3)
    for number in range(5):
        write_adapter(tmp_path / f"a{number}")
    made = AdapterRegistry(tmp_path, BASE, ())
    assert [one.name for one in made.scan()] == ["a0", "a1", "a2"]
    made.scan()
    assert caplog.text.count("Only the first 3 adapters") == 1


def test_very_many_folders_are_not_looked_at_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by requests for unknown names, either."""
    monkeypatch.setattr("model.serving.adapter_registry.MAX_QUICK_SCAN", 2)
    monkeypatch.setattr("model.serving.adapter_registry.SECONDS_A_FOLDER", 1000.0)
    for number in range(3):
        write_adapter(tmp_path / f"a{number}")
    made = AdapterRegistry(tmp_path, BASE, ())
    assert len(made.scan()) == 3
    monkeypatch.setattr(AdapterFolders, "scan", None)  # calling it would fail
    assert len(made.scan()) == 3
    with pytest.raises(LinlyError, match="no model or adapter"):
        made.get("unknown")
    assert made.get("a1").ready


# Templates

ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "repetition": '{{ "x" * 10**10 }}',
    "lists": '{{ ["x" * 999999] * 99999 }}',
    "numbers": "{{ 10 ** (9 ** 9) }}",
    "doubling": '{% set n = namespace(a="x") %}{% for i in range(99) %}'
                "{% set n.a = n.a ~ n.a %}{% endfor %}{{ n.a }}",
    "a list of lists": "{% set n = namespace(a=[]) %}{% for i in range(99) %}"
                       "{% set n.a = [n.a, n.a] %}{% endfor %}{{ n.a }}",
    "views": "{% set n = namespace(a={}) %}{% for i in range(99) %}"
             "{% set n.a = {1: n.a.items(), 2: n.a.items()} %}{% endfor %}{{ n.a }}",
    "a macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a branching macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}"
                         "{% endmacro %}{{ f(60) }}",
    "varargs": "{% macro f(n) %}{% if n %}{{ f(n-1, varargs, varargs) }}{% else %}{{ varargs }}"
               "{% endif %}{% endmacro %}{{ f(60, 1) }}",
    "output": "{% for i in range(99999) %}" + "x" * 99 + "{% endfor %}",
    "widths": '{{ "%999999999d" % 1 }}',
    "widths of format": '{{ "{:999999999}".format(1) }}',
    "widths from arguments": '{{ "{:{}}".format(1, 10**9) }}',
    "padding": '{{ "x".ljust(10**9) }}',
    "padding by an attribute": '{{ ("x"|attr("zfill"))(10**9) }}',
    "bytes": '{{ (1).to_bytes(10**9, "big") }}',
    "replacing": '{% set a = "x" * 999999 %}{{ a.replace("x", a) }}',
    "joining": '{% set a = "x" * 999999 %}{{ a|join(a) }}',
    "filters in a loop's condition":
        "{% for x in range(99999) if (range(99999)|list) %}{% endfor %}",
    "nesting": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "blocks": "{% if a %}" * 500 + "{% endif %}" * 500,
    "length": "x" * 200_000,
    "half a character": '{{ "\\ud800" }}',
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_template_without_end_is_cut_off(kind: str, tmp_path: Path) -> None:
    template = PromptTemplate("model", ENDLESS[kind])
    with pytest.raises(RequestError, match="cannot render this chat") as caught:
        template.render([Message("user", "hello")], make_spm(tmp_path))
    str(caught.value).encode()


def test_such_a_template_ends_by_itself(tmp_path: Path) -> None:
    """Nothing waits for it, and no thread goes on."""
    code = """
import sys
from pathlib import Path
from model.text.prompt import PromptTemplate
from model.errors import LinlyError
from model.types import Message
from tests.model.tokenizers import make_spm
spm = make_spm(Path(sys.argv[1]))
from tests.security.test_foreign_folders import ENDLESS
for source in ENDLESS.values():
    try:
        PromptTemplate("model", source).render([Message("user", "hi")], spm)
    except LinlyError:
        print("cut off")
"""
    assert survives(code, tmp_path).count("cut off") == len(ENDLESS)


USUAL = """
{%- set ns = namespace(found=false, system='') -%}
{%- macro shown(m, last=false) -%}
  {{- m.role|upper }}: {{ m['content'].strip() }}{% if last %}!{% endif -%}
{%- endmacro -%}
{%- if messages[0].role == 'system' -%}
  {%- set ns.system = messages[0].content %}{% set rest = messages[1:] -%}
{%- else -%}{% set rest = messages %}{%- endif -%}
{%- for m in rest if m.role is in ['user', 'assistant'] -%}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
    {{- raise_exception('roles') -}}
  {%- endif -%}
  {{- shown(m, last=loop.last) ~ '\\n' -}}
  {%- if '</think>' in m.content -%}
    {{- m.content.split('</think>')[-1].lstrip('\\n') -}}
  {%- endif -%}
{%- endfor -%}
{{- ([{'role': 'x'}] + rest)|map(attribute='role')|join(', ') }} {{ {'a': [1, 2]}|tojson -}}
{{- 'x' * 3 }} {{ '%s-%d' % ('a', 1) }} {{ '{} {}'.format(1, 'b') }} {{ 'a,b'.replace(',', ';') -}}
"""


def test_what_templates_usually_do_is_done(tmp_path: Path) -> None:
    chat = [Message("user", "hi"), Message("assistant", "yes"), Message("user", "go")]
    runs = PromptTemplate("model", USUAL).render(chat, make_spm(tmp_path))
    assert "".join(run.text for run in runs) == (
        'USER: hi\nASSISTANT: yes\nUSER: go!\nx, user, assistant, user {"a": [1, 2]}xxx a-1 1 b a;b'
    )


def test_a_long_chat_is_no_attack(tmp_path: Path) -> None:
    chat = [Message("user" if i % 2 == 0 else "assistant", "hello " * 200) for i in range(3001)]
    template = PromptTemplate("model", USUAL)
    assert template.render(chat, make_spm(tmp_path))
