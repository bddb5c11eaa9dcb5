"""The peers with an OpenAI-compatible server that need no files of their own: this program, vLLM.

vLLM runs in an environment of its own, because its dependencies conflict with this program's.
"""

from __future__ import annotations

import os
import socket
import sys
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

from bench.common import PeerError, PeerMissingError
from bench.peers.base import THIS_PROGRAM, BenchFixtures, ChildProcess, Peer, PeerReply, Question
from bench.peers.openai_client import Json, ask_all, first_token
from model.config.settings import APP_NAME
from model.layers.kernel_build import KernelBuild

MAX_SECONDS = 300.0
VLLM_MAX_SECONDS = 600.0
VLLM_BASE = "base"
VLLM_ENVIRON = {"VLLM_CPU_KVCACHE_SPACE": "2", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


class OpenAIPeer(Peer):
    """A peer with an OpenAI-compatible server at `address`, which its `start` sets."""

    def __init__(self, fixtures: BenchFixtures) -> None:
        super().__init__(fixtures)
        self.address = ""

    @abstractmethod
    def selection(self, adapter: int | None) -> Json:
        """The fields of a request that select an adapter or, with None, the base."""

    def ask(self, questions: Sequence[Question]) -> list[PeerReply]:
        replies = ask_all(self.address, [self.body(question) for question in questions])
        for question, reply in zip(questions, replies, strict=True):
            if question.exact and reply.tokens < question.tokens:
                raise PeerError(f"a reply ended after {reply.tokens} tokens")
        return replies

    def first_token(self, question: Question, count: int) -> dict[str, float]:
        """The `count` likeliest first tokens of the reply, each with its log probability."""
        return first_token(self.address, self.body(question), count)

    def body(self, question: Question) -> Json:
        """The JSON of a request."""
        return {
            "messages": [{"role": t.role, "content": t.content} for t in question.turns],
            "max_tokens": question.tokens,
            "temperature": 0,
            "ignore_eos": question.exact,
            **self.selection(question.adapter),
        }


class ThisProgram(OpenAIPeer):
    """`app.py` with its page on a free port; the `model` of a request selects the adapter.

    Args:
        flags: of `app.py`, in addition to those that every benchmark needs.
        program: the arguments of Python that start it.
    """

    name = THIS_PROGRAM
    max_users = 12
    max_adapters = 12

    def __init__(
        self,
        fixtures: BenchFixtures,
        flags: Sequence[str] = (),
        program: Sequence[str] = ("app.py",),
    ) -> None:
        super().__init__(fixtures)
        self._program = program
        self._flags = flags

    def start(self) -> str:
        # The user's own settings must not change what is measured.
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LINLY_")}
        # Otherwise the first round would run without compiled code.
        KernelBuild(user_cache_path(APP_NAME)).wait()
        command = [
            *(sys.executable, *self._program),
            *("--server_port", "0", "--base_model", str(self.fixtures.base)),
            *("--adapters_dir", str(self.fixtures.adapters)),
            *("--data_dir", str(self.fixtures.scratch / "data"), *self._flags),
        ]
        self.child = ChildProcess(command, self.fixtures.scratch / "ours.log", environ)
        self.address = self.child.read().split()[2]
        self.child.wait_for(f"{self.address}/health", MAX_SECONDS)
        return "app.py over HTTP, int8 weights"

    def selection(self, adapter: int | None) -> Json:
        return {} if adapter is None else {"model": self.fixtures.names[adapter]}


class Vllm(OpenAIPeer):
    """vLLM's OpenAI server in bfloat16 with three adapters."""

    name = "vllm"
    max_users = 12
    max_adapters = 3

    def __init__(self, fixtures: BenchFixtures, python: Path | None) -> None:
        super().__init__(fixtures)
        self._python = python

    def start(self) -> str:
        if self._python is None:
            raise PeerMissingError("no environment with vLLM was named: --vllm_python PATH")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        adapters = self.fixtures.paths(self.max_adapters)
        command = [
            *(str(self._python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--host", "127.0.0.1", "--port", port),
            *("--model", str(self.fixtures.base), "--served-model-name", VLLM_BASE),
            *("--dtype", "bfloat16", "--max-model-len", "4096"),
            *("--max-num-seqs", str(self.max_users)),
            *("--enable-lora", "--max-loras", str(self.max_adapters)),
            *("--lora-modules", *(f"{path.name}={path}" for path in adapters)),
        ]
        log = self.fixtures.scratch / "vllm.log"
        self.child = ChildProcess(command, log, {**os.environ, **VLLM_ENVIRON})
        self.address = f"http://127.0.0.1:{port}"
        self.child.wait_for(f"{self.address}/health", VLLM_MAX_SECONDS)
        return "its server over HTTP, bfloat16"

    def selection(self, adapter: int | None) -> Json:
        return {"model": VLLM_BASE if adapter is None else self.fixtures.names[adapter]}
