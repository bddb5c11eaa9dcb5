"""What all peers have in common: a process that can be paused and ended."""

from __future__ import annotations

from bench.peers.child import Child


class ProcessPeer:
    """Has a `child` once it was started."""

    def __init__(self) -> None:
        self.child: Child | None = None

    def pause(self) -> None:
        if self.child is not None:
            self.child.freeze()

    def resume(self) -> None:
        if self.child is not None:
            self.child.thaw()

    def stop(self) -> None:
        if self.child is not None:
            self.child.stop()
            self.child = None
