"""What the manager may ask of an engine, whether it runs here or elsewhere."""

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
        """Whether a prompt's ids will do; else it has to be given the text, too."""
        ...

    @property
    def context_length(self) -> int:
        """Tokens that a prompt and its reply may have together."""
        ...

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        """Make an adapter ready for a request; may block while it loads, and nobody else does.

        A `digest` other than before says that its files have changed: it is loaded again, and
        replies that are running keep the old weights. Whoever holds what is returned can submit
        it, whatever happens to the files or to the memory in between.

        Raises:
            AdapterError: it cannot be used.
        """
        ...

    def load(self, adapter: str, digest: str) -> None:
        """Have an adapter's weights where they are needed, now; may block while they load.

        Raises:
            AdapterError: it cannot be used.
            NotReadyError: whoever has to load it is not there.
        """
        ...

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        """Queue a request.

        An engine that has to ask elsewhere may still refuse it afterwards: by a last Delta with a
        `refusal`.

        One that is `read_only` is computed while nobody else has anything to compute, and only
        for requests to come, which find its keys and values: it emits no text and ends with
        `STOP`. Ended earlier, what was computed of it stays. It keeps nobody waiting.

        Raises:
            BusyError: the queue is full.
            EngineError: the engine has died or was closed, or did not prepare the adapter.
        """
        ...

    def abort(self, request_id: str) -> None:
        """End a request within one token; unknown ids are ignored."""
        ...

    def unload(self, adapter: str) -> None:
        """Give up an adapter's weights once nobody holds them; unknown ones are ignored."""
        ...

    def status(self) -> EngineStatus: ...

    def counts(self) -> EngineCounts: ...

    def close(self) -> None:
        """Abort everything and give the model back. Returns when the thread has ended."""
        ...
