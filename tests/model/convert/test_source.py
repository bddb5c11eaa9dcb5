"""Sources of a conversion, on the disk and on the hub, for which a small server stands in."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch

from model.__main__ import main
from model.convert.source import choose_source_file, find_source
from model.errors import ModelFolderError
from model.folders import hub
from model.folders.model_folder import load_tokenizer, read_model_folder
from tests.model.convert.test_tencent import HEADS, checkpoint, pieces
from tests.model.tokenizers import LIKE_LLAMA, write_spm

COMMIT = "c" * 40


class FakeHub(ThreadingHTTPServer):
    """Serves files by name in `org/name`; records the requests, and can end a response early."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.files: dict[str, bytes] = {}
        self.end_after: int | None = None
        self.ranges: list[tuple[str, str | None]] = []


class _HubHandler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: object) -> None:
        """Prints nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/org/name"):
            self._json(path, body)
            return
        name = path.removeprefix("/org/name/resolve/").partition("/")[2]
        content = self.server.files.get(name)
        if content is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            return
        self._file(name, content, body)

    def _json(self, path: str, body: bool) -> None:
        listed = [
            {"type": "file", "path": n, "rfilename": n, "size": len(c), "oid": "0" * 40}
            for n, c in self.server.files.items()
        ]
        info = {"id": "org/name", "sha": COMMIT, "siblings": listed, "private": False, "tags": []}
        answer: Any = listed if "/tree/" in path else info
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

    def _file(self, name: str, content: bytes, body: bool) -> None:
        requested_range = self.headers.get("Range")
        if body:
            self.server.ranges.append((name, requested_range))
        start = (
            int(requested_range.removeprefix("bytes=").partition("-")[0]) if requested_range else 0
        )
        etag = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if requested_range:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        stop = self.server.end_after
        end = len(content) if stop is None else max(start, stop)
        self._send(206 if requested_range else 200, content[start:], headers, body, end - start)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], body: bool,
        end: int | None = None,
    ) -> None:  # fmt: skip
        """Sends a response; with `end`, ends it after that many bytes."""
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content[:end])
        self.close_connection = True


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub for the library's client, with an empty cache."""
    from huggingface_hub import constants

    server = FakeHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("ENDPOINT", address),
        ("HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_CACHE", str(tmp_path / "hub")),
        ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
        ("DOWNLOAD_CHUNK_SIZE", 1000),  # so that a part of a small file is written before the end
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hub, "LARGE", 50_000)
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()


def linly(tmp_path: Path) -> dict[str, bytes]:
    """The files that Linly publishes: one .bin and its SentencePiece model."""
    spm = write_spm(tmp_path / "spm", **LIKE_LLAMA)
    torch.save(checkpoint(pieces(spm)), tmp_path / "bin")
    read = {"openllama_13b.bin": "bin", "open_llama.model": "spm"}
    return {"README.md": b"hi"} | {n: (tmp_path / f).read_bytes() for n, f in read.items()}


def config_flags(tmp_path: Path) -> list[str]:
    (tmp_path / "extra_config.json").write_text(json.dumps({"heads_num": HEADS}), encoding="utf-8")
    return ["--config", str(tmp_path / "extra_config.json")]


def test_convert_downloads_from_the_hub(
    served: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.files = linly(tmp_path)
    out = tmp_path / "Open-Linly-13b"
    assert main(["convert", "org/name", str(out), *config_flags(tmp_path)]) == 0
    assert "Downloading" in capsys.readouterr().out
    folder = read_model_folder(out)
    assert load_tokenizer(folder).vocab_size == folder.config["vocab_size"]


def test_interrupted_download_is_continued(
    served: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served.files = linly(tmp_path)
    served.end_after = 20_000
    command = ["convert", "org/name", str(tmp_path / "out"), *config_flags(tmp_path)]
    monkeypatch.setattr("time.sleep", lambda _: None)  # between the library's attempts
    assert main(command) == 1
    error_text = capsys.readouterr().err
    assert "continue an interrupted download" in error_text
    assert "Traceback" not in error_text
    served.end_after = None
    before = len(served.ranges)
    assert main(command) == 0
    second_run = dict(served.ranges[before:])
    assert second_run["openllama_13b.bin"] == "bytes=20000-"


def test_one_of_several_gguf_files_on_the_hub_must_be_named(
    served: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.model.convert.gguf_files import write

    spm = write_spm(tmp_path / "s.model", **LIKE_LLAMA)
    content = write(tmp_path / "m.gguf", spm).read_bytes()
    served.files = {"a-Q4.gguf": content, "a-Q8.gguf": content}
    assert main(["convert", "org/name", str(tmp_path / "out")]) == 1
    assert "a-Q4.gguf, a-Q8.gguf" in capsys.readouterr().err
    assert main(["convert", "org/name/a-Q8.gguf", str(tmp_path / "out")]) == 0
    assert [name for name, _ in served.ranges] == ["a-Q8.gguf"]  # and nothing else
    assert main(["convert", "org/name/b.gguf", str(tmp_path / "out2")]) == 1
    assert "There is no file" in capsys.readouterr().err


def test_all_parts_of_a_split_gguf_on_the_hub_are_downloaded(
    served: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.model.convert.gguf_files import write
    from tests.model.convert.test_gguf_parts import split

    spm = write_spm(tmp_path / "s.model", **LIKE_LLAMA)
    parts = split(write(tmp_path / "complete.gguf", spm), tmp_path / "parts")
    served.files = {f"Q8/{part.name}": part.read_bytes() for part in parts} | {"a.gguf": b"other"}
    assert main(["convert", f"org/name/Q8/{parts[1].name}", str(tmp_path / "out")]) == 0
    assert sorted(name for name, _ in served.ranges) == [f"Q8/{part.name}" for part in parts]
    served.files = {part.name: part.read_bytes() for part in parts[1:]}
    served.ranges.clear()
    assert main(["convert", "org/name", str(tmp_path / "out2")]) == 1
    assert f"part 1 is not there: {parts[0].name}" in capsys.readouterr().err
    assert served.ranges == []


def test_source_that_needs_no_conversion_is_not_downloaded(
    served: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.files = {"config.json": b"{}", "model.safetensors": b"stub"}
    assert main(["convert", "org/name", str(tmp_path / "out")]) == 1
    assert "nothing to convert" in capsys.readouterr().err
    assert served.ranges == []


def test_lack_of_disk_space_is_reported_before_the_download(
    served: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served.files = linly(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 1000}))
    assert main(["convert", "org/name", str(tmp_path / "out")]) == 1
    assert "the disk has" in capsys.readouterr().err
    assert served.ranges == []


def test_missing_network_is_reported_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "org/name", "out"]) == 1
    error_text = capsys.readouterr().err
    assert "could not be downloaded" in error_text
    assert len(error_text.splitlines()) == 1


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a.gguf", "README.md"], "a.gguf"),
        (["a.bin", "a.model"], "a.bin"),
        (["a.bin", "training_args.bin"], "a.bin"),
        (["config.json", "pytorch_model.bin"], None),
        (["config.json", "a.gguf"], "a.gguf"),
        (["a-00002-of-00002.gguf", "a-00001-of-00002.gguf"], "a-00001-of-00002.gguf"),
    ],
)
def test_choose_source_file_finds_the_model(names: list[str], chosen: str | None) -> None:
    assert choose_source_file(names, "folder") == chosen


@pytest.mark.parametrize(
    ("names", "expected_text"),
    [
        ([], "nothing that can be converted"),
        (["a.bin", "b.bin"], "a.bin, b.bin"),
        (["a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "b.gguf"], "a-00001-of-00002.gguf, b"),
        (["consolidated.00.pth", "params.json"], "Meta's own format"),
    ],
)
def test_choose_source_file_refuses_none_and_several(names: list[str], expected_text: str) -> None:
    with pytest.raises(ModelFolderError, match=expected_text):
        choose_source_file(names, "folder")


def test_tokenizer_beside_a_checkpoint_is_found_and_logged(tmp_path: Path) -> None:
    (tmp_path / "a.bin").touch()
    with pytest.raises(ModelFolderError, match=r"0 \.model files"):
        find_source(str(tmp_path), None, lambda _: None)
    (tmp_path / "a.model").touch()
    messages: list[str] = []
    assert find_source(str(tmp_path), None, messages.append).tokenizer == tmp_path / "a.model"
    assert str(tmp_path / "a.model") in messages[0]
    (tmp_path / "b.model").touch()
    with pytest.raises(ModelFolderError, match=r"2 \.model files"):
        find_source(str(tmp_path / "a.bin"), None, lambda _: None)


@pytest.mark.parametrize("name", ["org/name", "Linly-AI/OpenLLaMA-13B"])
def test_is_hub_id_unless_a_folder_exists(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub.is_hub_id(name)
    (tmp_path / name.partition("/")[0]).mkdir()
    assert not hub.is_hub_id(name)  # then it is a mistyped path
