"""Notifies metrics and logging once per request, when it completes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from model.types import (
    ChatRequest,
    CompletedRequest,
    CompletionRequest,
    Delta,
    PreparedAdapter,
    RequestKind,
)

Listener = Callable[[CompletedRequest], None]

CLOSED = "closed"  # the code of a request whose client left before an engine accepted it


class RequestAccounting:
    """Follows one request. Notifies the listeners on the event loop that it was created on.

    An engine ends each reply with a last Delta, even if the client has left. So the cost of a
    reply that was not read to its end is counted, too.

    Args:
        request: the request.
        kind: of request.
        listeners: receive the completed request.
        record_text: whether to keep the text.
    """

    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        kind: RequestKind,
        listeners: Sequence[Listener],
        record_text: bool,
    ) -> None:
        self._request = request
        self._kind: RequestKind = kind
        self._listeners = listeners
        self._texts: list[str] | None = [] if record_text else None
        self._loop = asyncio.get_running_loop()
        self._is_settled = False  # an engine has the request and will end it, or it was closed

    def on_delta(self, delta: Delta, adapter: PreparedAdapter | None) -> None:
        """Processes a Delta of the engine. Any thread may call it."""
        self._is_settled = True
        if self._texts is not None:
            self._texts.append(delta.text)
        if delta.refusal:
            self._is_settled = False  # the reader of the stream calls `close` with the error's code
        elif delta.finish_reason:
            text = None if self._texts is None else "".join(self._texts)
            stats = with_adapter_info(delta, adapter).stats
            completed = CompletedRequest(
                self._request, self._kind, delta.finish_reason, stats, text=text
            )
            with contextlib.suppress(RuntimeError):  # the loop is closed, the program ends
                self._loop.call_soon_threadsafe(self._notify, completed)

    def submitted(self) -> None:
        """Notes that an engine has the request, and will end it with a last Delta."""
        self._is_settled = True

    def close(self, code: str = CLOSED) -> None:
        """Completes the request as refused with `code`, unless an engine has it."""
        if not self._is_settled:
            self._is_settled = True
            self._notify(CompletedRequest(self._request, self._kind, None, None, code))

    def _notify(self, completed: CompletedRequest) -> None:
        for listener in self._listeners:
            listener(completed)


def with_adapter_info(delta: Delta, adapter: PreparedAdapter | None) -> Delta:
    """Returns a last Delta with the adapter's name and digest in its stats; others unchanged."""
    if delta.stats is None or adapter is None:
        return delta
    stats = replace(delta.stats, adapter=adapter.name, adapter_digest=adapter.digest)
    return replace(delta, stats=stats)
