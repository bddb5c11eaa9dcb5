"""The process behind the llama.cpp peer: its server, until standard input ends.

`python -m bench.peers.llamacpp_server BASE.gguf [--lora FILE …]` prints the server's address and
what it was built for as its first line. Adapters have the ids 0, 1 … in the order given, and are
applied only to requests that ask for them.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("base")
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--context", type=int, required=True, help="tokens of all slots together")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--lora", action="append", default=[])
    # By name, as type checking must not depend on a package that only measurements need.
    serve(import_module("xllamacpp"), parser.parse_args())


def serve(xllamacpp: Any, options: argparse.Namespace) -> None:
    params = xllamacpp.CommonParams()
    params.model.path = options.base
    params.n_parallel = options.slots
    params.n_ctx = options.context
    params.kv_unified = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    # At scale 1 an adapter would be applied to every request that names none.
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 0.0) for path in options.lora]
    server = xllamacpp.Server(params)
    enabled = [part for part in xllamacpp.get_system_info().split() if part.isupper()]
    print(server.listening_address, "built for", ", ".join(enabled), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
