"""Turns errors into responses in OpenAI's form, with their HTTP status."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteException

from model.errors import LinlyError, PromptTooLongError, RequestError
from model.translations import LocalizedText, verbatim

RETRY_SECONDS = 5  # Retry-After for errors that have no `retry_after`
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class NoSuchRouteError(LinlyError):
    """A path or a method that the API does not have."""

    http_status = 404
    code = "not_found"


class WrongMethodError(LinlyError):
    """The API has the path, but not for this method; `allowed` are those that it has."""

    http_status = 405
    code = "method_not_allowed"

    def __init__(self, path: str, method: str, allowed: Iterable[str]) -> None:
        super().__init__("path_without_method", path=path, method=method)
        self.allowed = ", ".join(sorted(allowed))


class KeyRefusedError(LinlyError):
    """No key, or a wrong one."""

    http_status = 401
    code = "invalid_api_key"


class ForbiddenError(LinlyError):
    """The client may not do this with its key or from its address."""

    http_status = 403
    code = "forbidden"


class TooLargeError(LinlyError):
    """The body of a request is too large."""

    http_status = 413
    code = "request_too_large"


class UnsupportedBodyError(LinlyError):
    """The body of a request is not plain JSON; `headers` say what is accepted (RFC 9110)."""

    http_status = 415
    code = "unsupported_media_type"

    def __init__(self, text: str, headers: dict[str, str], **facts: object) -> None:
        super().__init__(text, **facts)
        self.headers = headers


def as_response(error: LinlyError) -> JSONResponse:
    """Returns an error as OpenAI's error object, with its HTTP status and headers."""
    status = error.http_status
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    wait = max(1, math.ceil(getattr(error, "retry_after", 0) or RETRY_SECONDS))
    headers = {"Retry-After": str(wait)} if status in (429, 503) else {}
    if isinstance(error, KeyRefusedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, WrongMethodError):
        headers["Allow"] = error.allowed
    if isinstance(error, UnsupportedBodyError):
        headers |= error.headers
    param = getattr(error, "param", None)
    return _response(_message(error), kind, param, error.code, status, headers)


def install(app: FastAPI) -> None:
    """Adds handlers to `app` that turn the errors of routes into OpenAI's error object."""
    app.exception_handler(LinlyError)(_on_linly_error)
    app.exception_handler(RequestValidationError)(_on_validation_error)
    app.exception_handler(StarletteException)(_on_http_exception)


def too_large_exception(sentence: str) -> HTTPException:
    """A `TooLargeError` as the only class of errors that FastAPI lets through while it reads a
    body."""
    return HTTPException(TooLargeError.http_status, sentence)


def _message(error: LinlyError) -> str:
    """Returns an error's text. Clients recognise a context that is too short by OpenAI's words.

    A request of the API keeps one token of the context free, for the reply.
    """
    if not isinstance(error, PromptTooLongError):
        return str(error)
    facts = {"context_length": error.room + 1, "requested": error.tokens + 1}
    return LocalizedText("context_length_exceeded", facts | {"tokens": error.tokens}).full()


def _on_linly_error(_: Request, error: LinlyError) -> JSONResponse:
    return as_response(error)


def _on_http_exception(_: Request, error: StarletteException) -> JSONResponse:
    """Handles errors of FastAPI (a body that it cannot read), of `too_large_exception`, and of the
    page's static files (no such file)."""
    if error.status_code == NoSuchRouteError.http_status:
        return as_response(NoSuchRouteError("not_found"))
    if error.status_code == TooLargeError.http_status:
        return as_response(TooLargeError(verbatim(error.detail)))
    is_encoding = isinstance(error.__cause__, UnicodeDecodeError)
    return as_response(RequestError("body_not_utf8" if is_encoding else "body_unreadable"))


def _on_validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
    """Handles a body that does not match the route's model; names the first fault only."""
    # Where a field has several types, pydantic reports an error for each. The useful one is for the
    # type that the client sent: it is not a type error, and nested deepest.
    first = max(
        error.errors(), key=lambda fault: (not fault["type"].endswith("_type"), len(fault["loc"]))
    )
    fault = _body_fault(first)
    if fault is not None:
        return as_response(fault)
    # `loc` also has the types that pydantic tried, which are no part of the field's path.
    names = [
        str(part) for part in first["loc"] if isinstance(part, int) or str(part).isidentifier()
    ]
    field = ".".join(name for name in names if name not in ("body", "str", "int", "float"))
    text = str(first["msg"]).removeprefix("Value error, ")  # pydantic's, before a ValueError's own
    message = f"{field}: {text}" if field else text
    return _response(message, "invalid_request_error", field or None, "invalid_value", 400, {})


def _body_fault(first: dict[str, Any]) -> RequestError | None:
    """Returns the error for a fault of the body as a whole; None if the fault is in a field."""
    if first["type"] == "json_invalid":
        reason, position = first["ctx"]["error"], first["loc"][-1]
        return RequestError("body_invalid_json", reason=reason, position=position)
    if first["loc"] != ("body",):
        return None
    return RequestError("body_empty" if first["type"] == "missing" else "body_not_object")


def _response(
    message: str, kind: str, param: str | None, code: str, status: int, headers: dict[str, str]
) -> JSONResponse:
    body = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": body}, status_code=status, headers=headers or None)
