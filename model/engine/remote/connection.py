"""The line to a server: whether it is there, what it serves, and the adapters that it was given."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from model.engine.remote.client import OpenAIClient, ServerModels
from model.engine.remote.probe import TokenizerProbe
from model.translations import LocalizedText, without_folders
from model.types import AdapterError, BusyError, EngineError, LinlyError, NotReadyError

SILENT = LocalizedText("model_server_silent")
NOTHING = ServerModels((), frozenset())
DIGITS = 12  # of a digest, in the name of an adapter that a server was given
GIVEN = re.compile(rf".+@[0-9a-f]{{{DIGITS}}}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectionState:
    """What the server `served` when it last answered, under which name its `base`, what is wrong
    now, if anything, whether it takes token `ids`, and whether it `loads` adapters at run time."""

    served: ServerModels = NOTHING
    base: str = ""
    error: LocalizedText | None = SILENT
    ids: bool = True
    loads: bool = True


class ServerConnection:
    """For one event loop; `state` is replaced as a whole, so any thread may read it.

    Args:
        server: at the other end.
        base: the name of the base that it is to serve.
        probe: tells whether its tokenizer is the right one.
        find: where an adapter's folder lies, by its name; None if there is none here.
    """

    def __init__(
        self,
        server: OpenAIClient,
        base: str,
        probe: TokenizerProbe,
        find: Callable[[str], Path | None],
    ) -> None:
        self.state = ConnectionState()
        self.loaded: dict[str, str] = {}  # adapters that it was given, and by which name
        self.loads = 0
        self._server = server
        self._base = base
        self._probe = probe
        self._find = find
        self._came: dict[str, str] = {}  # digests of those that it has had of itself
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._given: dict[tuple[str, str], float] = {}  # when, by name and affinity
        self._refused: dict[str, AdapterError] = {}  # by name

    async def refresh(self) -> None:
        """See what the server serves.

        Raises:
            LinlyError: it is not there, or none that can be used.
        """
        before = self.state
        served = await self._server.models()
        base = self._base_among(served)
        if before.error is None:
            self._turn(replace(before, served=served, base=base))
            return
        # One that was away may be another one by now, and has forgotten what it was given.
        ids, loads = await self._knows_ids(base), await self._server.loads_adapters()
        for known in (self.loaded, self._came, self._given, self._refused):
            known.clear()
        self._turn(ConnectionState(served, base, None, ids, loads))

    def mark_down(self, error: LinlyError) -> None:
        """It cannot be used for now."""
        self._turn(replace(self.state, error=error.text))

    async def ensure_adapter(self, adapter: str, digest: str) -> str:
        """The name by which the server has an adapter as of `digest`; it is given it if need be.

        One that it lists under the plain name it came with, and that is what lies here when it is
        first asked for. Any other is served under a name with its digest: then nothing that was
        computed with other weights is found again, and of several servers behind a router none
        answers with old ones; one that does not know the name says so: see `have_again`.

        Raises:
            AdapterError: it cannot read it.
            LinlyError: as every question.
        """
        async with self._locks[adapter]:
            listed = self.state.served.adapters
            if adapter in listed and self._came.setdefault(adapter, digest) == digest:
                return adapter
            name = _named(adapter, digest)
            if name not in listed and self.loaded.get(adapter) != name:
                await self._load(adapter, name)
            return name

    async def reload_adapter(self, adapter: str, name: str, affinity: str, asked: float) -> bool:
        """Give it once more, as the server said that it does not know the `name`, when it was asked
        at `asked` (by the monotonic clock); whether it does now.

        Of several servers behind a router each has adapters of its own: the one that `affinity`
        leads to is given it, unless that has happened since.
        """
        async with self._locks[adapter]:
            if name == adapter:  # it has had it of itself, and has it no more
                return False
            if self._given.get((name, affinity), 0.0) < asked:
                await self._load(adapter, name, affinity)
            return (name, affinity) in self._given

    async def unload_adapter(self, adapter: str) -> None:
        """Have the server give up an adapter that it was given."""
        async with self._locks[adapter]:
            await self._take_back(self.loaded.pop(adapter, None))

    async def _load(self, adapter: str, name: str, affinity: str = "") -> None:
        """Have the server read it, where it can.

        Not in place: vLLM would read its files at every step from then on, and die when they go.
        """
        path = self._find(adapter)
        if path is None or not self.state.loads:
            return
        if name in self._refused:
            raise self._refused[name]
        try:
            await self._server.load_adapter(name, str(path), affinity)
        except (NotReadyError, BusyError):
            raise
        except LinlyError as error:
            self._refused[name] = _refusal(adapter, error)
            raise self._refused[name] from error
        self.loads += 1
        self._given[name, affinity] = time.monotonic()
        before, self.loaded[adapter] = self.loaded.get(adapter), name
        if before != name:
            await self._take_back(before)  # replies that it is in keep it

    async def _take_back(self, name: str | None) -> None:
        if name is not None and self.state.loads:
            with contextlib.suppress(LinlyError):
                await self._server.unload_adapter(name)

    def _turn(self, state: ConnectionState) -> None:
        before, self.state = self.state.error, state
        if state.error != before and (state.error or before != SILENT):
            log.warning("%s: %s", self._server.place, state.error or "The model server answers.")

    def _base_among(self, served: ServerModels) -> str:
        """Under which name the server has the base: also with a path before it, or alone."""
        named = [name for name in served.bases if name.rpartition("/")[2] == self._base]
        if named or len(served.bases) == 1:
            return (named or served.bases)[0]
        raise EngineError(
            "model_server_other_base",
            bases=", ".join(served.bases) or "no model",
            base=self._base,
        )

    async def _knows_ids(self, base: str) -> bool:
        """Whether the server takes token ids, which then are the same as here."""
        told = await self._server.tokens(base, self._probe.text)
        if told is None:
            return await self._server.accepts_token_ids(base, self._probe.ids)
        if self._probe.fits(told):
            return True
        raise EngineError(
            "model_server_other_tokenizer",
            base=self._base,
        )


def was_given(name: str) -> bool:
    """Whether a server has an adapter by this name because it was given it."""
    return GIVEN.fullmatch(name) is not None


def _named(adapter: str, digest: str) -> str:
    return f"{adapter}@{digest[:DIGITS]}" if digest else adapter


def _refusal(adapter: str, error: LinlyError) -> AdapterError:
    reason = without_folders(error.text)
    return AdapterError(
        "model_server_adapter_refused",
        adapter=adapter,
        reason=reason,
    )
