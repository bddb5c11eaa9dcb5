"""Adapters by name: which there are, and into or out of service, for whoever has the admin key.

A name is one of those in `--adapters_dir`; no path ever comes from a client. What is unloaded stays
so until it is loaded, or the program starts anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Depends, Request

from model.serving.adapter_folders import Adapter
from model.serving.manager import ModelManager
from web.access import AccessPolicy
from web.api.errors import ForbiddenError
from web.api.middleware import ASKS_FOR_A_KEY, KeyAttempts, bearer
from web.api.response_models import AdapterState, AdapterStates, errors


@dataclass(frozen=True)
class Admin:
    """The routes' handlers. They look at files and load weights, so they run in threads."""

    manager: ModelManager

    def adapters(self) -> dict[str, Any]:
        """Every adapter folder as it was found at the last look, with its verdict."""
        return self._told(self.manager.cached_adapters())

    def rescan(self) -> dict[str, Any]:
        """Look at the folder again, now."""
        return self._told(self.manager.adapters())

    def load(self, name: str) -> dict[str, Any]:
        """Serve an adapter, and have its weights in memory."""
        self.manager.load_adapter(name)
        return self._one(name)

    def unload(self, name: str) -> dict[str, Any]:
        """Serve an adapter no more. Replies that it is in go on; then its memory is given back."""
        self.manager.unload_adapter(name)
        return self._one(name)

    def _one(self, name: str) -> dict[str, Any]:
        states = self._told(self.manager.adapters())["adapters"]
        return dict(next(state for state in states if state["name"] == name))

    def _told(self, adapters: list[Adapter]) -> dict[str, Any]:
        loaded = self.manager.counts().adapters
        return {"adapters": [_state(adapter, adapter.name in loaded) for adapter in adapters]}


def router(manager: ModelManager, access: AccessPolicy, keys: KeyAttempts) -> APIRouter:
    """The routes below /v1/adapters."""

    def with_admin_key(request: Request) -> None:
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
        dependencies=[ASKS_FOR_A_KEY, Depends(with_admin_key)],
    )
    many, one, loading = AdapterStates, AdapterState, errors(404, 422, 503)
    for path, handler, method, model, refusals in (
        ("", admin.adapters, "GET", many, errors()),
        ("/rescan", admin.rescan, "POST", many, errors()),
        ("/{name}/load", admin.load, "POST", one, loading),
        ("/{name}/unload", admin.unload, "POST", one, loading),
    ):
        routes.add_api_route(
            path, handler, methods=[method], response_model=model, responses=refusals
        )
    return routes


def _state(adapter: Adapter, loaded: bool) -> dict[str, Any]:
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
