"""vLLM, from an environment of its own, as its dependencies do not agree with ours."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from bench.peers.base import BenchFixtures, PeerMissing
from bench.peers.child import Child
from bench.peers.http_peer import HttpPeer, Json

MAX_SECONDS = 600.0
BASE = "base"
ENVIRON = {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


class Vllm(HttpPeer):
    """Its OpenAI server in bfloat16 with three adapters."""

    name = "vllm"
    most_users = 12
    most_adapters = 3

    def __init__(self, stage: BenchFixtures, python: Path | None) -> None:
        super().__init__()
        self._stage = stage
        self._python = python

    def start(self) -> str:
        if self._python is None:
            raise PeerMissing("no environment with vLLM was named: --vllm_python PATH")
        port = str(_free_port())
        log = self._stage.scratch / "vllm.log"
        command = [str(self._python), "-m", "vllm.entrypoints.openai.api_server", "--port", port]
        self.child = Child([*command, *self._flags()], log, {**os.environ, **ENVIRON})
        self.address = f"http://127.0.0.1:{port}"
        self.child.wait_for(f"{self.address}/health", MAX_SECONDS)
        return "its server over HTTP, bfloat16"

    def _flags(self) -> list[str]:
        adapters = self._stage.paths(self.most_adapters)
        return [
            *("--host", "127.0.0.1"),
            *("--model", str(self._stage.base)),
            *("--served-model-name", BASE),
            *("--dtype", "bfloat16"),
            *("--max-model-len", "4096"),
            *("--max-num-seqs", str(self.most_users)),
            "--enable-lora",
            *("--max-loras", str(self.most_adapters)),
            *("--lora-modules", *(f"{path.name}={path}" for path in adapters)),
        ]

    def _selection(self, adapter: int | None) -> Json:
        return {"model": BASE if adapter is None else self._stage.names[adapter]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
