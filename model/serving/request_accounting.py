"""Whoever counts or writes down what is asked hears of each request once, at its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from model.types import ChatRequest, CompletedRequest, CompletionRequest, Delta, PreparedAdapter

Listener = Callable[[CompletedRequest], None]
Kind = Literal["chat", "completion", "reading"]

CLOSED = "closed"  # the code of a request whose sender left before an engine had it


class RequestAccounting:
    """Of one request. Its end is told on the event loop that this was made on.

    An engine ends each reply with a last Delta, also when nobody reads it any more: so what a
    reader who hung up has cost is known as well.

    Args:
        record: whether to keep the text.
    """

    def __init__(
        self,
        request: ChatRequest | CompletionRequest,
        kind: Kind,
        listeners: Sequence[Listener],
        record: bool,
    ) -> None:
        self._request = request
        self._kind: Kind = kind
        self._listeners = listeners
        self._said: list[str] | None = [] if record else None
        self._loop = asyncio.get_running_loop()
        self._with_engine = False

    def on_delta(self, delta: Delta, adapter: PreparedAdapter | None) -> None:
        """What an engine says; any thread may."""
        self._with_engine = True
        if self._said is not None:
            self._said.append(delta.text)
        if delta.refusal:
            self._with_engine = False  # whoever reads it closes this with its code
        elif delta.finish_reason:
            text = None if self._said is None else "".join(self._said)
            stats = with_adapter_info(delta, adapter).stats
            ended = CompletedRequest(
                self._request, self._kind, delta.finish_reason, stats, text=text
            )
            with contextlib.suppress(RuntimeError):  # the loop is gone, and all that counted
                self._loop.call_soon_threadsafe(self._tell, ended)

    def submitted(self) -> None:
        """An engine has it, and will say how it ends."""
        self._with_engine = True

    def close(self, code: str = CLOSED) -> None:
        """It is over without an engine, if none has it: refused with `code`."""
        if not self._with_engine:
            self._with_engine = True
            self._tell(CompletedRequest(self._request, self._kind, None, None, code))

    def _tell(self, ended: CompletedRequest) -> None:
        for listener in self._listeners:
            listener(ended)


def with_adapter_info(delta: Delta, adapter: PreparedAdapter | None) -> Delta:
    """A last Delta tells whose words these were."""
    if delta.stats is None or adapter is None:
        return delta
    stats = replace(delta.stats, adapter=adapter.name, adapter_digest=adapter.digest)
    return replace(delta, stats=stats)
