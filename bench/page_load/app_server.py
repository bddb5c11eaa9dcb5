"""`app.py` with the embedded default, as the measurements of the page start it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.peers.base import PeerError
from bench.peers.ours import Ours
from bench.stage import embedded_stage

SAMPLED = Path(__file__).with_name("sampled_app.py")


@dataclass(frozen=True)
class AppServer:
    """A server that is ready. `scratch` goes away with it; `lag` is what its sampler writes."""

    address: str
    pid: int
    scratch: Path
    lag: Path


@contextmanager
def app_server(*flags: str, sampled: bool = False) -> Iterator[AppServer]:
    """A server with an empty data folder.

    Args:
        flags: of `app.py`, beside those that every measurement needs.
        sampled: whether its event loop is sampled.

    Raises:
        PeerError: it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="linly-bench-") as folder:
        scratch = Path(folder)
        lag = scratch / "lag"
        program = (str(SAMPLED), str(lag)) if sampled else ("app.py",)
        server = Ours(embedded_stage(scratch), flags, program)
        try:
            server.start()
            if server.child is None:
                raise PeerError("the server did not start")
            yield AppServer(server.address, server.child.pid, scratch, lag)
        finally:
            server.stop()
