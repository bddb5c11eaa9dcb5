"""Errors in OpenAI's form, with their HTTP status."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteException

from model.errors import LinlyError, RequestError
from model.translations import verbatim

RETRY_SECONDS = 5  # where the error does not know better
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
    """A path that the API has, by another method than those `allowed`."""

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
    """Not with this key, or not from there."""

    http_status = 403
    code = "forbidden"


class TooLargeError(LinlyError):
    """A body that nobody means to send."""

    http_status = 413
    code = "request_too_large"


def as_response(error: LinlyError) -> JSONResponse:
    """An error of ours as OpenAI's error object with its HTTP status."""
    status = error.http_status
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    wait = max(1, math.ceil(getattr(error, "retry_after", 0) or RETRY_SECONDS))
    headers = {"Retry-After": str(wait)} if status in (429, 503) else {}
    if isinstance(error, KeyRefusedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, WrongMethodError):
        headers["Allow"] = error.allowed
    return _response(str(error), kind, None, error.code, status, headers)


def install(app: FastAPI) -> None:
    """Whatever goes wrong below a route leaves `app` so."""
    app.exception_handler(LinlyError)(_answer_error)
    app.exception_handler(RequestValidationError)(_answer_invalid)
    app.exception_handler(StarletteException)(_answer_unreadable)


def too_large(sentence: str) -> HTTPException:
    """A `TooLargeError` of the one kind that FastAPI lets through while it reads a body."""
    return HTTPException(TooLargeError.http_status, sentence)


def _answer_error(_: Request, error: LinlyError) -> JSONResponse:
    return as_response(error)


def _answer_unreadable(_: Request, error: StarletteException) -> JSONResponse:
    """What FastAPI says of a body that it cannot read, the gate of one that is too large, and the
    page's folder of a file that is not there."""
    if error.status_code == NoSuchRouteError.http_status:
        return as_response(NoSuchRouteError("not_found"))
    too_large = error.status_code == TooLargeError.http_status
    text = verbatim(error.detail)
    return as_response(TooLargeError(text) if too_large else RequestError(text))


def _answer_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """A body that is not what the route takes, in one sentence."""
    # Of a field that may be several things, what is wrong with the one that was meant.
    first = max(
        error.errors(), key=lambda one: (not one["type"].endswith("_type"), len(one["loc"]))
    )
    parts = [] if first["type"] == "json_invalid" else first["loc"]
    # Of types that a field may have, pydantic names the one that it tried: no part of the place.
    named = [str(part) for part in parts if isinstance(part, int) or str(part).isidentifier()]
    place = ".".join(part for part in named if part not in ("body", "str", "int", "float"))
    said = f"{place}: {first['msg']}" if place else str(first["msg"])
    return _response(said, "invalid_request_error", place or None, "invalid_value", 400, {})


def _response(
    message: str, kind: str, param: str | None, code: str, status: int, headers: dict[str, str]
) -> JSONResponse:
    body = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": body}, status_code=status, headers=headers or None)
