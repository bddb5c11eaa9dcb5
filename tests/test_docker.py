"""The container files, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.config.settings import CHECKOUT, Settings

ROOT = CHECKOUT
SCRIPTS = Path(sys.executable).parent
HADOLINT = shutil.which("hadolint", path=os.pathsep.join([str(SCRIPTS), os.environ["PATH"]]))


def arguments(instruction: str) -> list[str]:
    """Returns the arguments of each `instruction` in the Dockerfile; joins continued lines."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == [instruction]]


def services() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


@contextmanager
def health_server(status: int) -> Iterator[int]:
    """Runs a server whose /health has `status`; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Logs nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: requirements-dev.txt")
def test_hadolint_finds_no_fault() -> None:
    done = subprocess.run(
        [str(HADOLINT), "Dockerfile", "deploy/router/Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_copied_paths_exist_and_are_the_only_ones_in_the_build_context() -> None:
    words = [[w for w in line.split() if not w.startswith("--")] for line in arguments("COPY")]
    copied = {source for *sources, _ in words for source in sources}
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert "*" in ignore
    assert copied == {line[1:] for line in ignore if line.startswith("!")}


def test_root_owns_the_code_and_does_not_run_the_server() -> None:
    owned = [line for line in arguments("COPY") if "--chown" in line]
    assert owned == ["--chown=linly:linly adapters ./adapters"]
    assert arguments("USER") == ["1000"]


def test_the_server_is_the_first_process_so_that_sigterm_reaches_it() -> None:
    assert [json.loads(words) for words in arguments("ENTRYPOINT")] == [["python", "app.py"]]


def test_the_environment_names_real_flags() -> None:
    """A variable without a flag would be ignored silently."""
    names = set(re.findall(r"LINLY_\w+(?==)", " ".join(arguments("ENV"))))
    required = {"LINLY_SERVER_NAME", "LINLY_ADAPTERS_DIR", "LINLY_CACHE_DIR", "LINLY_DATA_DIR"}
    assert names >= required
    assert names <= {f"LINLY_{field.name.upper()}" for field in fields(Settings)}


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_health(status: int, healthy: bool) -> None:
    command = json.loads(arguments("HEALTHCHECK")[0].partition("CMD")[2])
    # The check must not use the proxy, which does not exist.
    with health_server(status) as port:
        env = {"LINLY_SERVER_PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run(
            [sys.executable, *command[1:]], env=env, capture_output=True, check=False
        )
    assert (done.returncode == 0) is healthy


@pytest.mark.parametrize("name", ["chat", "chat-gpu", "chat-vllm", "chat-router"])
def test_compose_persists_data_and_allows_time_to_stop(name: str) -> None:
    service = services()[name]
    targets = {volume.split(":")[1] for volume in service["volumes"]}
    assert targets == {"/app/models", "/run/secrets", *json.loads(arguments("VOLUME")[0])}
    assert "./models:/app/models:ro" in service["volumes"]
    assert [port.split(":")[-1] for port in service["ports"]] == arguments("EXPOSE") == ["7860"]
    assert service["env_file"] == [{"path": ".env", "required": False}]
    assert (service["restart"], service["stop_grace_period"]) == ("unless-stopped", "30s")
    assert "healthcheck" not in service  # the image's own


def test_only_the_gpu_service_requests_a_gpu_and_cuda() -> None:
    chat, gpu = services()["chat"], services()["chat-gpu"]
    devices = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert [device["driver"] for device in devices] == ["nvidia"]
    assert (gpu["profiles"], gpu["build"]["args"]) == (["gpu"], {"TORCH_INDEX": ""})
    assert not {"profiles", "deploy"} & set(chat)
    assert chat["image"] != gpu["image"]
