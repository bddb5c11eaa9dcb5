"""llama.cpp's own server, out of the package xllamacpp, with a Q8_0 base and its LoRA adapters."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from bench.gguf_files import GgufError, write_adapter, write_base
from bench.peers.base import BenchFixtures, PeerError, PeerMissing, Question
from bench.peers.child import Child
from bench.peers.http_peer import HttpPeer, Json
from bench.streaming import first_token

MAX_SECONDS = 300.0
SLOTS = 12
CONTEXT = 32_768  # tokens of all slots together: more than any workload holds


class LlamaCpp(HttpPeer):
    """One server with its slots over one cache of keys and values, prompt cache on."""

    name = "llama.cpp"
    most_users = SLOTS
    most_adapters = 12

    def __init__(self, stage: BenchFixtures, slots: int = SLOTS, context: int = CONTEXT) -> None:
        super().__init__()
        self._stage = stage
        self._slots = slots
        self._context = context

    def start(self) -> str:
        if importlib.util.find_spec("xllamacpp") is None:
            raise PeerMissing("xllamacpp is not installed: pip install -r requirements-bench.txt")
        base, adapters = self._files()
        command = [sys.executable, "-m", "bench.peers.llamacpp_server", str(base)]
        command += ["--slots", str(self._slots), "--context", str(self._context)]
        command += ["--threads", str(self._stage.threads)]
        command += [word for path in adapters for word in ("--lora", str(path))]
        self.child = Child(command, self._stage.scratch / "llamacpp.log")
        self.address, _, built = self.child.read().partition(" ")
        self.child.wait_for(f"{self.address}/health", MAX_SECONDS)
        return f"its server over HTTP, Q8_0, {self._slots} slots; {built}"

    def first_token(self, question: Question, count: int) -> dict[str, float]:
        # The base, asked after an adapter in the same slot, is answered from the adapter's cache
        # (seen: 1.7 nats off); here the question is whether the model is the same.
        body = {**self._body(question), "cache_prompt": False}
        return first_token(self.address, body, count)

    def _files(self) -> tuple[Path, list[Path]]:
        """The base and the adapters as GGUF, made where they are not in the cache."""
        stage = self._stage
        try:
            base = _once(stage.cache / "base.gguf", lambda file: write_base(stage.base, file))
            return base, [self._adapter(path) for path in stage.paths(self.most_adapters)]
        except GgufError as error:
            raise PeerError(str(error)) from error

    def _adapter(self, folder: Path) -> Path:
        base = self._stage.base
        target = folder.with_suffix(".gguf")
        return _once(target, lambda file: write_adapter(folder, file, base))

    def _selection(self, adapter: int | None) -> Json:
        # Adapters that a request does not name are left out of it.
        return {} if adapter is None else {"lora": [{"id": adapter, "scale": 1.0}]}


def _once(target: Path, write: Callable[[Path], None]) -> Path:
    """`target`, written first where it is missing; never half a file."""
    if not target.is_file():
        partial = target.with_suffix(".partial")
        write(partial)
        partial.replace(target)
    return target
