"""Errors that a package raises for its callers, with their HTTP status and exit status."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from typing import ClassVar

from model.translations import LocalizedText

# How torch and the libraries below it say that memory ran out.
LACKS_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
)
LACKS_MEMORY_IN_RUST = f"(os error {errno.ENOMEM})"


class LinlyError(Exception):
    """An error with a message and a remedy for the user, in every language.

    API clients get `http_status` and `code`, which is the class's and not the text's; programs exit
    with `exit_status`.

    Args:
        text: the code of its texts in `translations/<language>/errors.toml`, or a LocalizedText.
        facts: values for the texts' placeholders; see LocalizedText.
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
    """A folder of a base or an adapter cannot be used. Its text can also be a diagnostic's."""


class ModelFolderError(FolderError):
    """A base model's folder is missing, torn or not of the LLaMA family."""

    code = "bad_model_folder"


class AdapterError(FolderError):
    """An adapter cannot be used. The status is not 409, after which clients try again."""

    http_status = 422
    code = "adapter_broken"


class UnknownModelError(LinlyError):
    """No base and no adapter has that name."""

    http_status = 404
    code = "model_not_found"


class RequestError(LinlyError):
    """The request itself is wrong."""

    http_status = 400
    code = "invalid_value"


class PromptTooLongError(RequestError):
    """The prompt does not fit the context: it has `tokens`, and only `room` fit with a reply."""

    code = "context_length_exceeded"

    def __init__(self, text: str, /, *, tokens: int, room: int, **facts: object) -> None:
        super().__init__(text, tokens=tokens, room=room, **facts)
        self.tokens = tokens
        self.room = room


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


class OutOfMemoryError(LinlyError):
    """The machine has too little memory at the moment. The files involved may be sound."""

    http_status = 503
    code = "out_of_memory"


class EngineError(LinlyError):
    """The engine failed while it worked on a reply."""

    code = "engine_error"


class ShareError(LinlyError):
    """The public link could not be made; the local page works without it."""

    code = "share_failed"


def missing_package_text(error: ModuleNotFoundError) -> LocalizedText:
    """Returns the sentence for a package that is not installed."""
    return LocalizedText("package_missing", {"package": error.name, "python": sys.executable})


def lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out: by this error, or by one that it was raised from."""
    return any(map(_says_no_memory, _with_causes(error)))


def lack_of_memory(error: Exception) -> OutOfMemoryError | None:
    """The error to report in place of this one if memory ran out, else None."""
    if isinstance(error, OutOfMemoryError):
        return error
    return OutOfMemoryError("out_of_memory") if lacks_memory(error) else None


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__


def _says_no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, LinlyError):  # its facts may come from the file
        return False
    text = str(error)
    is_said = isinstance(error, RuntimeError) and any(words in text for words in LACKS_MEMORY)
    return is_said or LACKS_MEMORY_IN_RUST in text
