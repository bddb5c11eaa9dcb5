"""The interface that every engine has, whether it runs on this machine or forwards to a server."""

from __future__ import annotations

from typing import Protocol

from model.types import Emit, EngineCounts, EngineRequest, EngineStatus, PreparedAdapter


class Engine(Protocol):
    """Accepts requests from any thread and answers each through its `emit`.

    `emit` is called on the engine's thread, must return at once and must not raise; its last
    call carries a `finish_reason`.
    """

    name: str
    device: str
    quantization: str

    @property
    def accepts_token_ids(self) -> bool:
        """Whether a prompt's token ids are enough; otherwise a request needs the text, too."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its reply may have together."""
        ...

    @property
    def max_waiting(self) -> int:
        """Requests that can wait for their turn at the same time."""
        ...

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        """Make an adapter ready for a request; blocks while it loads, the caller alone.

        A `digest` other than before means that its files have changed: it is loaded again, and
        running replies keep the old weights. The caller can submit requests with the returned
        handle, even if the files or the cached weights go in between.

        Raises:
            AdapterError: it cannot be used.
        """
        ...

    def load(self, adapter: str, digest: str) -> None:
        """Load an adapter's weights now; blocks until they are ready.

        Raises:
            AdapterError: it cannot be used.
            NotReadyError: the server that has to load it is not reachable.
        """
        ...

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        """Queue a request.

        An engine that forwards to a server may still refuse it after that: by a last Delta with a
        `refusal`.

        A request that is `prefill_only` is computed while no reply has anything to compute. It only
        fills the prefix cache for later requests: it emits no text and ends with `STOP`. If it is
        ended earlier, the part that was computed stays cached. No reply waits for it.

        Raises:
            BusyError: the queue is full.
            EngineError: the engine has died or was closed, or did not prepare the adapter.
        """
        ...

    def abort(self, request_id: str) -> None:
        """End a request within one token; unknown ids are ignored."""
        ...

    def unload(self, adapter: str) -> None:
        """Free an adapter's weights once no reply uses them; unknown names are ignored."""
        ...

    def status(self) -> EngineStatus: ...

    def counts(self) -> EngineCounts: ...

    def close(self) -> None:
        """Abort all requests and free the model. Returns when the thread has ended."""
        ...
