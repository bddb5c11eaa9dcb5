"""llama.cpp's server (package xllamacpp) as a peer, with a Q8_0 base and its LoRA adapters.

`python -m bench.peers.llamacpp BASE.gguf [--lora FILE …]` is the peer's process: it prints the
server's address and what it was built for in one line, and serves until its standard input ends.
Adapters have the ids 0, 1 … in the order of the flags.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from bench.common import PeerError, PeerMissingError
from bench.peers.base import BenchFixtures, ChildProcess, Question
from bench.peers.gguf_files import GgufError, write_adapter, write_base
from bench.peers.openai_client import Json, first_token
from bench.peers.openai_peers import OpenAIPeer

MAX_SECONDS = 300.0
SLOTS = 12
CONTEXT = 32_768  # tokens of all slots together: more than any workload needs


class LlamaCpp(OpenAIPeer):
    """One server whose slots share one KV cache, with its prompt cache on."""

    name = "llama.cpp"
    max_users = SLOTS
    max_adapters = 12

    def __init__(self, fixtures: BenchFixtures, slots: int = SLOTS, context: int = CONTEXT) -> None:
        super().__init__(fixtures)
        self._slots = slots
        self._context = context

    def start(self) -> str:
        if importlib.util.find_spec("xllamacpp") is None:
            raise PeerMissingError(
                "xllamacpp is not installed: pip install -r requirements-bench.txt"
            )
        base, adapters = self._files()
        command = [
            *(sys.executable, "-m", "bench.peers.llamacpp", str(base)),
            *("--slots", str(self._slots), "--context", str(self._context)),
            *("--threads", str(self.fixtures.threads)),
            *(word for path in adapters for word in ("--lora", str(path))),
        ]
        self.child = ChildProcess(command, self.fixtures.scratch / "llamacpp.log")
        self.address, _, build = self.child.read().partition(" ")
        self.child.wait_for(f"{self.address}/health", MAX_SECONDS)
        return f"its server over HTTP, Q8_0, {self._slots} slots; {build}"

    def first_token(self, question: Question, count: int) -> dict[str, float]:
        # llama.cpp answers a question to the base from the cache of an adapter that used the same
        # slot before (seen: 1.7 nats off), and this comparison is about the model.
        return first_token(self.address, {**self.body(question), "cache_prompt": False}, count)

    def _files(self) -> tuple[Path, list[Path]]:
        """The base and the adapters as GGUF, written if they are not in the cache."""
        base = self.fixtures.base

        def convert(folder: Path) -> Path:
            target = folder.with_suffix(".gguf")
            return _cached(target, lambda file: write_adapter(folder, file, base))

        try:
            target = self.fixtures.cache / "base.gguf"
            written = _cached(target, lambda file: write_base(base, file))
            return written, [convert(path) for path in self.fixtures.paths(self.max_adapters)]
        except GgufError as error:
            raise PeerError(str(error)) from error

    def selection(self, adapter: int | None) -> Json:
        # The server does not apply adapters that a request does not name.
        return {} if adapter is None else {"lora": [{"id": adapter, "scale": 1.0}]}


def _cached(target: Path, write: Callable[[Path], None]) -> Path:
    """`target`, written first if it is missing; never half a file."""
    if not target.is_file():
        partial = target.with_suffix(".partial")
        write(partial)
        partial.replace(target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("base")
    for flag in ("slots", "context", "threads"):
        parser.add_argument(f"--{flag}", type=int, required=True)
    parser.add_argument("--lora", action="append", default=[])
    args = parser.parse_args()
    # Imported by name: type checking must not need a package that only benchmarks use.
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = args.base
    params.n_parallel, params.n_ctx, params.kv_unified = args.slots, args.context, True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    # With scale 1 the server would apply an adapter to every request that names none.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in args.lora]
    server = xllamacpp.Server(params)
    features = [part for part in xllamacpp.get_system_info().split() if part.isupper()]
    print(server.listening_address, "built for", ", ".join(features), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
