"""Loading in the background: how far it is, what came of it, and calling it off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from model.base_resolver import Report
from model.config.settings import Settings
from model.errors import LinlyError, NotReadyError
from model.serving.backend import Backend
from model.translations import LocalizedText, without_folders
from model.types import Phase

# How the phases share the progress bar: (where the phase begins, how much of it there is).
SHARES = {
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
    """How things stand. Replaced as a whole, so that readers need no lock."""

    phase: Phase = Phase.STARTING
    progress: float = 0.0
    backend: Backend | None = None
    error: LocalizedText | None = None


class BackgroundLoader:
    """Loads in a thread of its own; `state` tells how that goes.

    Args:
        settings: what to load.
        load: does it.
    """

    def __init__(self, settings: Settings, load: Load) -> None:
        self._settings = settings
        self._load = load
        self.state = LoadState()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Block until it is ready or has failed, or for `timeout` seconds."""
        ended = (Phase.READY, Phase.FAILED)
        with self._changed:
            self._changed.wait_for(lambda: self.state.phase in ended, timeout)

    def close(self) -> None:
        """Call it off at its next report, or close the engine that it has brought."""
        self._closed = True
        if self.state.backend:
            self.state.backend.engine.close()

    def join(self, timeout: float) -> bool:
        """Wait for the thread; whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def backend(self) -> Backend:
        """What has been loaded.

        Raises:
            NotReadyError: nothing yet, or it has failed.
        """
        state = self.state
        if state.backend is None:
            if state.error:
                raise NotReadyError("model_not_loaded", error=state.error)
            raise NotReadyError("model_loading")
        return state.backend

    def _run(self) -> None:
        try:
            serving = self._load(self._settings, self._report)
        except LinlyError as error:
            self._set(LoadState(Phase.FAILED, error=without_folders(error.text)))
        except MemoryError:
            self._set(LoadState(Phase.FAILED, error=LocalizedText("loading_out_of_memory")))
        except Exception as error:
            log.exception("The model could not be loaded")
            failure = LocalizedText("loading_failed", {"reason": str(error)})
            self._set(LoadState(Phase.FAILED, error=without_folders(failure)))
        else:
            self._set(LoadState(Phase.READY, 1.0, serving))
            if self._closed:  # close() came first and found nothing to close
                serving.engine.close()

    def _report(self, phase: Phase, share: float) -> None:
        if self._closed:
            raise NotReadyError("shutting_down")
        start, length = SHARES[phase]
        self._set(LoadState(phase, start + length * share))

    def _set(self, state: LoadState) -> None:
        if self._closed and state.backend is None:
            return  # what a loading that was called off says is no news
        with self._changed:
            self.state = state
            self._changed.notify_all()
