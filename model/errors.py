"""Every error that leaves a package, and how it leaves the program."""

from __future__ import annotations

from typing import ClassVar

from model.translations import LocalizedText


class LinlyError(Exception):
    """An error that a person can act on. Its texts are data, in every language.

    `http_status`, `code` and `exit_status` are how the error leaves the program: a client's code is
    that of the class, for several texts.

    Args:
        text: the code of its texts in `translations/<language>/errors.toml`, or such a text.
        facts: what the texts have places for; see LocalizedText.
    """

    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1
    code: ClassVar[str] = "internal_error"

    def __init__(self, text: str | LocalizedText, /, **facts: object) -> None:
        self.text = LocalizedText(text, facts) if isinstance(text, str) else text
        super().__init__(self.text)

    @property
    def message(self) -> str:
        return self.text.message()

    @property
    def remedy(self) -> str:
        return self.text.remedy()

    def __str__(self) -> str:
        return self.text.full()


class SettingsError(LinlyError):
    """A flag or its value is wrong."""

    exit_status = 2
    code = "bad_settings"


class FolderError(LinlyError):
    """Something is wrong with a folder: its text is one of the diagnostics, or of the errors."""


class ModelFolderError(FolderError):
    """A base model's folder is missing, torn or not of the LLaMA family."""

    code = "bad_model_folder"


class AdapterError(FolderError):
    """An adapter cannot be used. No conflict that would pass: clients ask again after a 409."""

    http_status = 422
    code = "adapter_broken"


class UnknownModelError(LinlyError):
    """No base and no adapter of that name."""

    http_status = 404
    code = "model_not_found"


class RequestError(LinlyError):
    """The request itself is wrong."""

    http_status = 400
    code = "invalid_value"


class PromptTooLongError(RequestError):
    """The prompt does not fit the context."""

    code = "context_length_exceeded"


class NotReadyError(LinlyError):
    """The model is still loading, or failed to load."""

    http_status = 503
    code = "not_ready"


class BusyError(LinlyError):
    """The queue is full; `retry_after` is the expected wait in seconds."""

    http_status = 429
    code = "busy"

    def __init__(
        self, text: str | LocalizedText, /, *, retry_after: float = 5.0, **facts: object
    ) -> None:
        super().__init__(text, **facts)
        self.retry_after = retry_after


class EngineError(LinlyError):
    """The engine failed while it worked on a reply."""

    code = "engine_error"


class ShareError(LinlyError):
    """The public link could not be made; the local page goes on."""

    code = "share_failed"
