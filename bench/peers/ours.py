"""This project, as people start it: `app.py` with its page, over its API."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from platformdirs import user_cache_path

from bench.peers.base import BenchFixtures
from bench.peers.child import Child
from bench.peers.http_peer import HttpPeer, Json
from model.config.settings import APP_NAME
from model.layers.kernel_build import KernelBuild

MAX_SECONDS = 300.0


class Ours(HttpPeer):
    """`app.py` on a free port; its `model` field selects the adapter."""

    name = "ours"
    most_users = 12
    most_adapters = 12

    def __init__(
        self, stage: BenchFixtures, flags: Sequence[str] = (), program: Sequence[str] = ("app.py",)
    ) -> None:
        super().__init__()
        self._program = program
        self._stage = stage
        self._more = flags

    def start(self) -> str:
        # Settings of whoever measures must not change what is measured.
        environ = {k: v for k, v in os.environ.items() if not k.startswith("LINLY_")}
        # Else the first round would be without compiled code.
        KernelBuild(user_cache_path(APP_NAME)).wait()
        log = self._stage.scratch / "ours.log"
        self.child = Child([sys.executable, *self._program, *self._flags()], log, environ)
        self.address = self.child.read().split()[2]
        self.child.wait_for(f"{self.address}/health", MAX_SECONDS)
        return "app.py over HTTP, int8 weights"

    def _flags(self) -> list[str]:
        stage = self._stage
        flags = {
            "server_port": "0",
            "base_model": str(stage.base),
            "adapters_dir": str(stage.adapters),
            "data_dir": str(stage.scratch / "data"),
        }
        given = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
        return [*given, *self._more]

    def _selection(self, adapter: int | None) -> Json:
        return {} if adapter is None else {"model": self._stage.names[adapter]}
