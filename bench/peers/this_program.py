"""This program as a peer: `app.py` with its page, asked over its API."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from platformdirs import user_cache_path

from bench.peers.base import THIS_PROGRAM, BenchFixtures, ChildProcess
from bench.peers.openai_client import Json, OpenAIPeer
from model.config.settings import APP_NAME
from model.layers.kernel_build import KernelBuild

MAX_SECONDS = 300.0


class ThisProgram(OpenAIPeer):
    """`app.py` on a free port; the `model` field of a request selects the adapter.

    Args:
        flags: of `app.py`, in addition to those that every benchmark needs.
        program: the arguments of Python that start it.
    """

    name = THIS_PROGRAM
    most_users = 12
    most_adapters = 12

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
        flags = {
            "server_port": "0",
            "base_model": str(self.fixtures.base),
            "adapters_dir": str(self.fixtures.adapters),
            "data_dir": str(self.fixtures.scratch / "data"),
        }
        words = [word for flag, value in flags.items() for word in (f"--{flag}", value)]
        command = [sys.executable, *self._program, *words, *self._flags]
        self.child = ChildProcess(command, self.fixtures.scratch / "ours.log", environ)
        self.address = self.child.read().split()[2]
        self.child.wait_for(f"{self.address}/health", MAX_SECONDS)
        return "app.py over HTTP, int8 weights"

    def selection(self, adapter: int | None) -> Json:
        return {} if adapter is None else {"model": self.fixtures.names[adapter]}
