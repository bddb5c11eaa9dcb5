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

from model.engine.remote.probe import Probe
from model.engine.remote.server import ModelServer, Served
from model.types import AdapterError, BusyError, EngineError, LinlyError, NotReadyError

SILENT = "The model server has not answered yet"
NOTHING = Served((), frozenset())
FOLDERS = re.compile(r"(?<![\w:/])/(?:[^\s/:]+/)+")  # nobody's business but the operator's

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What the server `served` when it last answered, under which name its `base`, what is wrong
    now, if anything, whether it takes token `ids`, and whether it `loads` adapters at run time."""

    served: Served = NOTHING
    base: str = ""
    error: str | None = SILENT
    ids: bool = True
    loads: bool = True


class Line:
    """For one event loop; `state` is replaced as a whole, so any thread may read it.

    Args:
        server: at the other end.
        base: the name of the base that it is to serve.
        probe: tells whether its tokenizer is the right one.
        find: where an adapter's folder lies, by its name; None if there is none here.
    """

    def __init__(
        self, server: ModelServer, base: str, probe: Probe, find: Callable[[str], Path | None]
    ) -> None:
        self.state = State()
        self.loaded: dict[str, str] = {}  # digests of the adapters that it was given, or came with
        self.loads = 0
        self._server = server
        self._base = base
        self._probe = probe
        self._find = find
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._given: dict[tuple[str, str], float] = {}  # when, by adapter and affinity
        self._refused: dict[tuple[str, str], AdapterError] = {}  # by adapter and digest

    async def look(self) -> None:
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
        self.loaded.clear()
        self._refused.clear()
        self._turn(State(served, base, None, ids, loads))

    def lost(self, error: LinlyError) -> None:
        """It cannot be used for now."""
        self._turn(replace(self.state, error=str(error)))

    async def have(self, adapter: str, digest: str) -> None:
        """See to it that the server has an adapter, as of `digest`, as far as it can be told: of
        several servers behind a router one speaks for all, and `have_again` puts it right.

        Raises:
            AdapterError: it cannot read it.
            LinlyError: as every question.
        """
        async with self._locks[adapter]:
            known = self.loaded.get(adapter)
            if known is None and adapter in self.state.served.adapters:
                known = self.loaded[adapter] = digest  # it came with it
            if known != digest:
                await self._load(adapter, digest, anew=known is not None)

    async def have_again(self, adapter: str, digest: str, affinity: str, asked: float) -> bool:
        """The same once it said that it does not know the name, when it was asked at `asked` (by
        the monotonic clock); whether it does now.

        Of several servers behind a router each has adapters of its own: the one that `affinity`
        leads to is given it, unless that has happened since.
        """
        async with self._locks[adapter]:
            if self._given.get((adapter, affinity), 0.0) < asked:
                self.loaded.pop(adapter, None)
                await self._load(adapter, digest, affinity=affinity)
            return adapter in self.loaded

    async def forget(self, adapter: str) -> None:
        """Have the server give up an adapter that it was given."""
        async with self._locks[adapter]:
            if self.loaded.pop(adapter, None) is not None and self.state.loads:
                with contextlib.suppress(LinlyError):
                    await self._server.unload_adapter(adapter)

    async def _load(
        self, adapter: str, digest: str, affinity: str = "", anew: bool = False
    ) -> None:
        """Have the server read it, where it can; `anew` where it has an earlier one of that name.

        Unloaded first, and not loaded in place: vLLM would read the files at every step from then
        on, and die once they are gone. Replies that run keep the earlier one.
        """
        path = self._find(adapter)
        if path is None or not self.state.loads:
            return
        if (adapter, digest) in self._refused:
            raise self._refused[adapter, digest]
        try:
            if anew:
                await self._server.unload_adapter(adapter)
            await self._server.load_adapter(adapter, str(path), affinity)
        except (NotReadyError, BusyError):
            raise
        except LinlyError as error:
            said = FOLDERS.sub("", error.message)
            self._refused[adapter, digest] = AdapterError(
                f"The model server cannot serve the adapter {adapter!r}: {said}",
                "Mend it, and let the server see the same folder under the same path.",
            )
            raise self._refused[adapter, digest] from error
        self.loads += 1
        self.loaded[adapter] = digest
        self._given[adapter, affinity] = time.monotonic()
        served = self.state.served
        served = replace(served, adapters=served.adapters | {adapter})
        self.state = replace(self.state, served=served)

    def _turn(self, state: State) -> None:
        before, self.state = self.state.error, state
        if state.error != before and (state.error or before != SILENT):
            log.warning("%s: %s", self._server.place, state.error or "The model server answers.")

    def _base_among(self, served: Served) -> str:
        """Under which name the server has the base: also with a path before it, or alone."""
        named = [name for name in served.bases if name.rpartition("/")[2] == self._base]
        if named or len(served.bases) == 1:
            return (named or served.bases)[0]
        raise EngineError(
            f"The model server serves {', '.join(served.bases) or 'no model'} and not {self._base}",
            "Start this program with --base_model and the folder of what is served.",
        )

    async def _knows_ids(self, base: str) -> bool:
        """Whether the server takes token ids, which then are the same as here."""
        told = await self._server.tokens(base, self._probe.text)
        if told is None:
            return await self._server.takes_ids(base, self._probe.ids)
        if self._probe.fits(told):
            return True
        raise EngineError(
            f"The model server has another tokenizer than {self._base}",
            "Start this program with --base_model and the folder of what is served.",
        )
