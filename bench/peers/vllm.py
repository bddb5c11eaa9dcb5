"""vLLM as a peer, from an environment of its own: its dependencies conflict with this program's."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from bench.errors import PeerMissingError
from bench.peers.base import BenchFixtures, ChildProcess
from bench.peers.openai_client import Json, OpenAIPeer

MAX_SECONDS = 600.0
BASE = "base"
ENVIRON = {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


class Vllm(OpenAIPeer):
    """Its OpenAI server in bfloat16 with three adapters."""

    name = "vllm"
    most_users = 12
    most_adapters = 3

    def __init__(self, fixtures: BenchFixtures, python: Path | None) -> None:
        super().__init__(fixtures)
        self._python = python

    def start(self) -> str:
        if self._python is None:
            raise PeerMissingError("no environment with vLLM was named: --vllm_python PATH")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        adapters = self.fixtures.paths(self.most_adapters)
        command = [
            *(str(self._python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", port),
            *("--model", str(self.fixtures.base), "--served-model-name", BASE),
            *("--dtype", "bfloat16", "--max-model-len", "4096"),
            *("--max-num-seqs", str(self.most_users)),
            *("--enable-lora", "--max-loras", str(self.most_adapters)),
            *("--lora-modules", *(f"{path.name}={path}" for path in adapters)),
        ]
        log = self.fixtures.scratch / "vllm.log"
        self.child = ChildProcess(command, log, {**os.environ, **ENVIRON})
        self.address = f"http://127.0.0.1:{port}"
        self.child.wait_for(f"{self.address}/health", MAX_SECONDS)
        return "its server over HTTP, bfloat16"

    def selection(self, adapter: int | None) -> Json:
        return {"model": BASE if adapter is None else self.fixtures.names[adapter]}
