"""The admin routes: list, load and unload adapters, for clients that have the admin key.

A name is that of a folder in `--adapters_dir`; clients never send a path. An unloaded adapter stays
unloaded until a client loads it or the program restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request

from model.serving.adapter_folders import Adapter
from model.serving.manager import ModelManager
from web.access import AccessPolicy
from web.api.errors import ForbiddenError
from web.api.middleware import KEY_IN_DOCS, KeyAttempts, bearer
from web.api.response_models import AdapterState, AdapterStates, errors


@dataclass(frozen=True)
class Admin:
    """The routes' handlers. They read files and load weights, so they run in threads."""

    manager: ModelManager

    def adapters(self) -> dict[str, Any]:
        """Every adapter folder as the last scan found it, with its problem if it has one."""
        return self._states(self.manager.cached_adapters())

    def rescan(self) -> dict[str, Any]:
        """Scan the folder again, now."""
        return self._states(self.manager.adapters())

    def load(self, name: str) -> dict[str, Any]:
        """Serve an adapter, and load its weights into memory."""
        self.manager.load_adapter(name)
        return self._state(name)

    def unload(self, name: str) -> dict[str, Any]:
        """Stop serving an adapter. Running replies that use it go on; then its memory is freed."""
        self.manager.unload_adapter(name)
        return self._state(name)

    def _state(self, name: str) -> dict[str, Any]:
        states = self._states(self.manager.adapters())["adapters"]
        return dict(next(state for state in states if state["name"] == name))

    def _states(self, adapters: list[Adapter]) -> dict[str, Any]:
        loaded = self.manager.counts().adapters
        return {"adapters": [_to_json(adapter, adapter.name in loaded) for adapter in adapters]}


def router(manager: ModelManager, access: AccessPolicy, keys: KeyAttempts) -> APIRouter:
    """Returns the routes below /v1/adapters."""

    def require_admin_key(request: Request) -> None:
        if access.admin_key is None:
            raise ForbiddenError("no_admin_key")
        key = bearer(request.headers)
        if not access.allows_admin(key):
            keys.failed(request.scope, key)
            raise ForbiddenError("admin_key_required")

    admin = Admin(manager)
    routes = APIRouter(
        prefix="/v1/adapters",
        tags=["adapters"],
        dependencies=[KEY_IN_DOCS, Depends(require_admin_key)],
    )
    load_errors = errors(404, 422, 503)
    for path, handler, method, model, responses in (
        ("", admin.adapters, "GET", AdapterStates, errors()),
        ("/rescan", admin.rescan, "POST", AdapterStates, errors()),
        ("/{name}/load", admin.load, "POST", AdapterState, load_errors),
        ("/{name}/unload", admin.unload, "POST", AdapterState, load_errors),
    ):
        routes.add_api_route(
            path, handler, methods=[method], response_model=model, responses=responses
        )
    return routes


def _to_json(adapter: Adapter, loaded: bool) -> dict[str, Any]:
    problem = adapter.problem
    return {
        "name": adapter.name,
        "ready": adapter.ready,
        "problem": f"{problem.message()}. {problem.remedy()}".strip() if problem else None,
        "warnings": [warning.message() for warning in adapter.warnings],
        "description": adapter.description,
        "template": adapter.template,
        "digest": adapter.digest,
        "loaded": loaded,
    }
