"""ASGI middleware for the paths of the API: clients write them in several ways.

A client whose base URL ends with a slash, or that adds `/v1` to one that has it, sends
`/v1//chat/completions`, `/v1/v1/models` or `/v1/models/`: all of them are served. A path without
`/v1` is refused with the right one: proxies guard the API by this prefix. They may also close
`/v1/adapters`, so the admin's paths are served only as they are.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from web.api.errors import NoSuchRouteError, as_response

PREFIX = "/v1/"
# First parts of OpenAI's paths. The page has none of them.
SERVED = {"chat", "completions", "models"}
UNSERVED = {"embeddings", "responses"}
MAX_SHOWN = 200  # characters of a path in an error


class ApiPathMiddleware:
    """ASGI middleware that cleans paths below /v1, and refuses the API's paths without it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = _clean(scope["path"]) if scope["type"] == "http" else None
        if path is None or path == scope["path"]:
            await self._app(scope, receive, send)
        elif scope["path"].startswith(PREFIX) or scope["path"] == "/v1":
            cleaned = {**scope, "path": path, "raw_path": path.encode()}
            await self._app(cleaned, receive, send)
        else:
            await as_response(_refusal(scope["path"], path))(scope, receive, send)


def _clean(path: str) -> str | None:
    """Returns the path of the API that `path` means; None if it means none."""
    parts = [part for part in path.split("/") if part]
    version = next((i for i, part in enumerate(parts) if part != "v1"), len(parts))
    names = parts[version:]
    is_api = names[0] in SERVED | UNSERVED if names else version > 0
    return PREFIX + "/".join(names) if is_api else None


def _refusal(path: str, suggestion: str) -> NoSuchRouteError:
    shown = path[:MAX_SHOWN]
    if suggestion.removeprefix(PREFIX).partition("/")[0] not in SERVED:
        return NoSuchRouteError("path_not_found", path=shown)
    return NoSuchRouteError("path_outside_v1", path=shown, suggestion=suggestion[:MAX_SHOWN])
