"""Connection state of the model server: health, served models, adapters loaded on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.engine.remote.client import OpenAIClient, ServerModels
from model.errors import AdapterError, BusyError, EngineError, LinlyError, NotReadyError
from model.translations import LocalizedText, redact_paths

NO_ANSWER_YET = LocalizedText("model_server_silent")
NO_MODELS = ServerModels((), frozenset())
NAME_DIGITS = 12  # of the digest, in the name of an adapter that was loaded on a server
LOADED_NAME_RE = re.compile(rf".+@[0-9a-f]{{{NAME_DIGITS}}}")
MIN_OVERLAP = 0.5  # share of ids; with fewer in common the vocabulary is another one

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenizerProbe:
    """Tells whether a server's tokenizer is the local one: a `text`, its local token `ids`, and the
    size of the vocabulary."""

    ids: Sequence[int]
    vocab_size: int
    text: str

    def matches(self, server_ids: Sequence[int]) -> bool:
        """Whether a server that encodes the text as `server_ids` has the same vocabulary.

        Tokenizers of one model may differ by a space at the beginning; those of two models hardly
        agree on any id.
        """
        local = set(self.ids)
        overlap = len(local & set(server_ids))
        return max(server_ids, default=0) < self.vocab_size and overlap >= MIN_OVERLAP * len(local)


@dataclass(frozen=True)
class ConnectionState:
    """The `models` of the server's last answer, its name for the base, the present error, if there
    is one, and whether the server accepts token ids and loads adapters at run time."""

    models: ServerModels = NO_MODELS
    base: str = ""
    error: LocalizedText | None = NO_ANSWER_YET
    accepts_token_ids: bool = True
    can_load_adapters: bool = True


class ServerConnection:
    """For one event loop; `state` is never changed but replaced, so any thread may read it.

    Args:
        server: the client of the server.
        base: the name of the base that it has to serve.
        probe: tells whether its tokenizer is the right one.
        find_folder: returns an adapter's folder by its name; None if it is not on this machine.
    """

    def __init__(
        self,
        server: OpenAIClient,
        base: str,
        probe: TokenizerProbe,
        find_folder: Callable[[str], Path | None],
    ) -> None:
        self.state = ConnectionState()
        self.loaded: dict[str, str] = {}  # by adapter: its name on the server
        self.loads = 0
        self._server = server
        self._base = base
        self._probe = probe
        self._find_folder = find_folder
        self._preloaded: dict[str, str] = {}  # digests of adapters that the server was started with
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._load_times: dict[tuple[str, str], float] = {}  # by name and affinity
        self._load_errors: dict[str, AdapterError] = {}  # by name

    async def refresh(self) -> None:
        """Read the list of models that the server serves.

        Raises:
            LinlyError: the server cannot be reached, or not be used.
        """
        previous = self.state
        models = await self._server.models()
        base = self._base_name(models)
        if previous.error is None:
            self._set_state(replace(previous, models=models, base=base))
            return
        # After an outage it may be another server, or the same one without the adapters.
        accepts_ids, can_load = (
            await self._accepts_token_ids(base),
            await self._server.can_load_adapters(),
        )
        for record in (self.loaded, self._preloaded, self._load_times, self._load_errors):
            record.clear()
        self._set_state(ConnectionState(models, base, None, accepts_ids, can_load))

    def mark_down(self, error: LinlyError) -> None:
        """Notes that the server cannot be used for now."""
        self._set_state(replace(self.state, error=error.text))

    async def ensure_adapter(self, adapter: str, digest: str) -> str:
        """The server's name for an adapter as of `digest`; loads the adapter there if need be.

        It is the plain name if the server lists it: then the server was started with it, and its
        version counts as the local one at the first request. Any other version is loaded under a
        name with its digest: so nothing that was computed with other weights is found again, and
        none of several servers behind a router replies with old weights. A server that does not
        know the name says so: see `reload_adapter`.

        Raises:
            AdapterError: the server cannot load it.
            LinlyError: as every request.
        """
        async with self._locks[adapter]:
            listed = self.state.models.adapters
            if adapter in listed and self._preloaded.setdefault(adapter, digest) == digest:
                return adapter
            name = _loaded_name(adapter, digest)
            if name not in listed and self.loaded.get(adapter) != name:
                await self._load(adapter, name)
            return name

    async def reload_adapter(self, adapter: str, name: str, affinity: str, sent: float) -> bool:
        """Load an adapter again after the server did not know its `name` in a request of the time
        `sent` (of the monotonic clock). Returns whether the server knows it now.

        Each of several servers behind a router has adapters of its own: it is loaded on the one
        that `affinity` leads to, unless that has happened since.
        """
        async with self._locks[adapter]:
            if name == adapter:  # the server was started with it, and no longer has it
                return False
            if self._load_times.get((name, affinity), 0.0) < sent:
                await self._load(adapter, name, affinity)
            return (name, affinity) in self._load_times

    async def unload_adapter(self, adapter: str) -> None:
        """Unload an adapter that was loaded on the server."""
        async with self._locks[adapter]:
            await self._unload(self.loaded.pop(adapter, None))

    async def _load(self, adapter: str, name: str, affinity: str = "") -> None:
        """Loads an adapter on the server, if the server can.

        An adapter is never replaced in place: vLLM would then read its files at every step, and
        crash when they are deleted.
        """
        path = self._find_folder(adapter)
        if path is None or not self.state.can_load_adapters:
            return
        if name in self._load_errors:
            raise self._load_errors[name]
        try:
            await self._server.load_adapter(name, str(path), affinity)
        except (NotReadyError, BusyError):
            raise
        except LinlyError as error:
            self._load_errors[name] = _load_error(adapter, error)
            raise self._load_errors[name] from error
        self.loads += 1
        self._load_times[name, affinity] = time.monotonic()
        previous, self.loaded[adapter] = self.loaded.get(adapter), name
        if previous != name:
            await self._unload(previous)  # running replies keep it

    async def _unload(self, name: str | None) -> None:
        if name is not None and self.state.can_load_adapters:
            with contextlib.suppress(LinlyError):
                await self._server.unload_adapter(name)

    def _set_state(self, state: ConnectionState) -> None:
        previous, self.state = self.state.error, state
        if state.error != previous and (state.error or previous != NO_ANSWER_YET):
            log.warning("%s: %s", self._server.host, state.error or "The model server answers.")

    def _base_name(self, served: ServerModels) -> str:
        """Returns the server's name for the base: the same name, also with a path before it. If
        the server has a single base, it may have any name."""
        matches = [name for name in served.bases if name.rpartition("/")[2] == self._base]
        if matches or len(served.bases) == 1:
            return (matches or served.bases)[0]
        raise EngineError(
            "model_server_other_base",
            bases=", ".join(served.bases) or "no model",
            base=self._base,
        )

    async def _accepts_token_ids(self, base: str) -> bool:
        """Whether the server accepts token ids; then they are the same as on this machine."""
        server_ids = await self._server.tokenize(base, self._probe.text)
        if server_ids is None:
            return await self._server.accepts_token_ids(base, self._probe.ids)
        if self._probe.matches(server_ids):
            return True
        raise EngineError("model_server_other_tokenizer", base=self._base)


def is_loaded_name(name: str) -> bool:
    """Whether an adapter has this name on a server because it was loaded there at run time."""
    return LOADED_NAME_RE.fullmatch(name) is not None


def _loaded_name(adapter: str, digest: str) -> str:
    return f"{adapter}@{digest[:NAME_DIGITS]}" if digest else adapter


def _load_error(adapter: str, error: LinlyError) -> AdapterError:
    reason = redact_paths(error.text)
    return AdapterError("model_server_adapter_refused", adapter=adapter, reason=reason)
