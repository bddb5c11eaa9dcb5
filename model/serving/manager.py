"""ModelManager, the interface to the model for all other packages: load, adapters, chat, status.

It owns no tensor: the engine's thread does. Every method may be called from any thread, and the
streams from any event loop.
"""

from __future__ import annotations

from functools import partial

from model.base_resolver import base_name
from model.config.settings import Settings
from model.folders.model_folder import ModelFolder
from model.serving.adapter_folders import Adapter
from model.serving.backend import Backend
from model.serving.background_loader import BackgroundLoader, Load
from model.serving.delta_queue import DeltaStream
from model.serving.local_backend import load_local
from model.serving.remote_backend import load_remote
from model.serving.request_accounting import Listener
from model.serving.request_builder import (
    context_usage,
    prepare_chat,
    prepare_completion,
    prepare_prefill,
    prompt_text,
    resolve_template,
)
from model.serving.request_runner import RequestRunner
from model.text.prompt_template import PromptTemplate
from model.text.tokenizer import Tokenizer
from model.types import (
    ChatRequest,
    CompletionRequest,
    ContextUsage,
    EngineCounts,
    EngineStatus,
    Phase,
    Status,
)


class ModelManager:
    """Loads a base in the background and answers chats with it.

    Args:
        settings: what to load, and how it is served.
        load: loads the backend; by default the local or the remote one, as the settings say.
        folder: the base's folder, if it was read already.
    """

    def __init__(
        self, settings: Settings, load: Load | None = None, folder: ModelFolder | None = None
    ) -> None:
        self._settings = settings
        default_load = load_remote if settings.engine_url else load_local
        self._loader = BackgroundLoader(settings, load or partial(default_load, folder=folder))
        self._runner = RequestRunner(self._loader.backend, settings.log_prompts)

    def start(self) -> None:
        """Starts loading; returns at once."""
        self._loader.start()

    def wait(self, timeout: float | None = None) -> Status:
        """Blocks until the model is ready or has failed, or for `timeout` seconds."""
        self._loader.wait(timeout)
        return self.status()

    def status(self) -> Status:
        """Returns what the model is doing. Never blocks."""
        state = self._loader.state
        engine = state.backend.engine if state.backend else None
        work = engine.status() if engine else EngineStatus()
        return Status(
            phase=Phase.FAILED if work.error else state.phase,
            progress=state.progress,
            base_model=base_name(self._settings),
            engine=engine.name if engine else "remote" if self._settings.engine_url else "local",
            device=engine.device if engine else self._settings.device,
            quantization=engine.quantization if engine else self._settings.quantization,
            running=work.running,
            waiting=work.waiting,
            error=state.error or work.error,
            step_age=work.step_age,
            slowest_step=work.slowest_step,
        )

    def adapters(self, max_age: float = 0.0) -> list[Adapter]:
        """Returns all adapters, broken ones included; none while the model loads.

        Reads the folders that have changed, so do not call it on an event loop.

        Args:
            max_age: seconds for which an earlier scan is used instead.
        """
        return self.backend.registry.scan(max_age) if self.backend else []

    def cached_adapters(self) -> list[Adapter]:
        """Returns the adapters as of the last scan. Never blocks once there was one."""
        return self.backend.registry.cached() if self.backend else []

    def fingerprint(self, adapter: str | None) -> str:
        """Returns a short name of the base, its settings and the adapter, as of the last scan;
        empty while the model loads. Never blocks."""
        digests = {each.name: each.digest for each in self.cached_adapters()}
        return self.backend.fingerprint(digests.get(adapter or "", "")) if self.backend else ""

    def load_adapter(self, name: str) -> None:
        """Serves an adapter, also if it was disabled, and loads its weights. Reads files.

        Raises:
            NotReadyError, UnknownModelError, AdapterError
        """
        backend = self._loader.backend()
        backend.registry.enable(name)
        backend.engine.load(name, backend.registry.get(name).digest)

    def unload_adapter(self, name: str) -> None:
        """Disables an adapter until it is loaded again. Replies that use it go on.

        Raises:
            NotReadyError, UnknownModelError
        """
        backend = self._loader.backend()
        backend.registry.disable(name)
        backend.engine.unload(name)

    def counts(self) -> EngineCounts:
        """Returns the engine's counters and memory use. Never blocks."""
        return self.backend.engine.counts() if self.backend else EngineCounts()

    @property
    def backend(self) -> Backend | None:
        """The loaded backend; None while the model loads."""
        return self._loader.state.backend

    def add_listener(self, listener: Listener) -> None:
        """Adds a listener, which receives each request when it completes, on the event loop of the
        request."""
        self._runner.add_listener(listener)

    def templates(self) -> list[PromptTemplate]:
        """Returns the prompt templates that a chat may choose; none while the model loads."""
        return list(self.backend.templates.values()) if self.backend else []

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer; None while the model loads."""
        return self.backend.tokenizer if self.backend else None

    def template_for(self, adapter: str | None, template: str | None) -> PromptTemplate:
        """Returns the template of a chat: `template` by name, else the adapter's, else the base's.

        Raises:
            NotReadyError, UnknownModelError, AdapterError, RequestError
        """
        backend = self._loader.backend()
        registered = backend.registry.get(adapter) if adapter else None
        return resolve_template(backend, template, registered)

    @property
    def context_length(self) -> int | None:
        """Tokens of a prompt and its reply together, at most; None while the model loads."""
        return self.backend.engine.context_length if self.backend else None

    @property
    def max_waiting(self) -> int | None:
        """Requests that can wait for the engine at the same time; None while the model loads."""
        return self.backend.engine.max_waiting if self.backend else None

    @property
    def has_chat_template(self) -> bool:
        """Whether the base has a chat template; without one its replies are poor."""
        return self.backend.has_chat_template if self.backend else True

    def chat(self, request: ChatRequest, min_interval: float = 0.0) -> DeltaStream:
        """Generates the reply to `request.messages`. Closing the iterator ends the reply within
        one token.

        With `so_far` the reply continues that text, and the Deltas have only the new text. So a
        greedy reply that was cut is completed to the reply that it would have been. There is one
        exception: the model had written the text in other tokens than its tokenizer would.

        Args:
            request: the chat.
            min_interval: seconds between two batches of Deltas, at least.

        Raises (from the iterator):
            NotReadyError, UnknownModelError, AdapterError, RequestError, PromptTooLongError,
            BusyError, EngineError
        """
        return self._runner.stream(request, prepare_chat, min_interval, "chat")

    def complete(self, request: CompletionRequest, min_interval: float = 0.0) -> DeltaStream:
        """Continues `request.prompt` without a template; otherwise like `chat`."""
        return self._runner.stream(request, prepare_completion, min_interval, "completion")

    def decode_prompt(self, request: CompletionRequest) -> str:
        """Returns a prompt as text, also where the client sent token ids.

        Decodes the prompt: do not call it on an event loop.

        Raises:
            NotReadyError, UnknownModelError, AdapterError, RequestError
        """
        return prompt_text(self._loader.backend(), request)

    def prefill(self, request: ChatRequest) -> DeltaStream:
        """Computes the keys and values of a chat up to its last message, with which the prompt of
        the next question will begin.

        Emits no text. The engine works on it only while there is no reply to compute, and resumes
        it after the replies. The last Delta has the number of prompt tokens, and how many of them
        were cached before. Closing the iterator or `abort` ends it within one chunk; the computed
        part stays cached.

        Raises (from the iterator): as `chat`, except that an empty chat is no error.
        """
        return self._runner.stream(request, prepare_prefill, 0.0, "prefill")

    def context_usage(self, request: ChatRequest) -> ContextUsage:
        """Returns how many tokens of the context a chat takes, as `chat` would encode it.

        A chat that ends with a reply is counted up to there; with `drop_oldest`, without the turns
        that the next question would drop. Tokenises the whole chat: do not call it on an event
        loop.

        Raises: as `chat`, except that an empty chat is no error. It does not call the engine.
        """
        return context_usage(self._loader.backend(), request)

    def abort(self, request_id: str) -> None:
        """Ends a reply within one token. Its stream then ends with the finish_reason `abort`."""
        self._runner.abort(request_id)
        if self.backend:
            self.backend.engine.abort(request_id)

    def close(self) -> None:
        """Ends all replies and the engine's thread; loading stops at its next progress report."""
        self._loader.close()
