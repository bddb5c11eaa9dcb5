"""Loads the backend on a background thread: progress, result, error, and cancellation."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from model.base_resolver import Report
from model.config.settings import Settings
from model.errors import LinlyError, NotReadyError, lacks_memory
from model.serving.backend import Backend
from model.translations import LocalizedText, redact_paths
from model.types import Phase

# Share of the progress bar for each phase: (where it begins, its length).
PHASE_SHARES = {
    Phase.STARTING: (0.0, 0.0),
    Phase.FETCHING: (0.02, 0.0),
    Phase.CONVERTING: (0.2, 0.0),
    Phase.READING: (0.5, 0.45),
    Phase.READY: (1.0, 0.0),
    Phase.FAILED: (0.0, 0.0),
}

log = logging.getLogger(__name__)

Load = Callable[[Settings, Report], Backend]


@dataclass(frozen=True)
class LoadState:
    """State of the loading. Always replaced as one object, so that readers need no lock."""

    phase: Phase = Phase.STARTING
    progress: float = 0.0
    backend: Backend | None = None
    error: LocalizedText | None = None


class BackgroundLoader:
    """Loads a backend on its own thread; `state` has the progress and the result.

    Args:
        settings: what to load.
        load: function that loads it.
    """

    def __init__(self, settings: Settings, load: Load) -> None:
        self._settings = settings
        self._load = load
        self.state = LoadState()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)

    def start(self) -> None:
        """Starts loading; returns at once."""
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Blocks until loading is done or has failed, or for `timeout` seconds."""
        ended = (Phase.READY, Phase.FAILED)
        with self._changed:
            self._changed.wait_for(lambda: self.state.phase in ended, timeout)

    def close(self) -> None:
        """Cancels loading at its next progress report, or closes the engine that was loaded."""
        self._closed = True
        if self.state.backend:
            self.state.backend.engine.close()

    def backend(self) -> Backend:
        """Returns the loaded backend.

        Raises:
            NotReadyError: loading is not done, or has failed.
        """
        state = self.state
        if state.backend is None:
            if state.error:
                raise NotReadyError("model_not_loaded", error=state.error)
            raise NotReadyError("model_loading")
        return state.backend

    def _run(self) -> None:
        try:
            backend = self._load(self._settings, self._report)
        except Exception as error:
            self._set(LoadState(Phase.FAILED, error=redact_paths(_failure_text(error))))
        else:
            self._set(LoadState(Phase.READY, 1.0, backend))
            if self._closed:  # close() was called before there was an engine
                backend.engine.close()

    def _report(self, phase: Phase, share: float) -> None:
        if self._closed:
            raise NotReadyError("shutting_down")
        start, length = PHASE_SHARES[phase]
        self._set(LoadState(phase, start + length * share))

    def _set(self, state: LoadState) -> None:
        if self._closed and state.backend is None:
            return  # nothing reads the progress of a cancelled load
        with self._changed:
            self.state = state
            self._changed.notify_all()


def _failure_text(error: Exception) -> LocalizedText:
    if lacks_memory(error):
        return LocalizedText("loading_out_of_memory")
    if isinstance(error, LinlyError):
        return error.text
    log.error("The model could not be loaded", exc_info=error)
    return LocalizedText("loading_failed", {"reason": str(error)})
