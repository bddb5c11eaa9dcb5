"""OpenAI's API, /health, /metrics and the admin's routes, on the page's port."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI

from model.serving.manager import ModelManager
from web import logs
from web.access import AccessPolicy
from web.api import admin, errors, health, routes
from web.api.middleware import ApiAuthMiddleware, ApiCorsMiddleware, KeyAttempts
from web.health_checks import HealthCheck, HealthChecks, engine_check
from web.metrics import Metrics
from web.rate_limits import AttemptLimiter
from web.request_id import RequestIdMiddleware


def install(
    app: FastAPI,
    manager: ModelManager,
    access: AccessPolicy,
    attempts: AttemptLimiter | None = None,
    checks: Sequence[HealthCheck] = (),
) -> None:
    """Add the routes, the error handlers and the gate to `app`; count and log what comes.

    `attempts` counts wrong keys, together with the wrong passwords of the page. The `checks` are
    those of /health, beside the engine's.
    """
    keys = KeyAttempts(access, attempts or AttemptLimiter())
    health_checks = HealthChecks([engine_check(manager), *checks])
    metrics = Metrics(manager, health_checks)
    manager.add_listener(metrics.count)
    manager.add_listener(logs.reply)
    known = [
        health.router(manager, metrics, health_checks),
        routes.router(manager),
        admin.router(manager, access, keys),
    ]
    for router in known:
        app.include_router(router)
    app.router.routes.extend(routes.NotFoundFallback(known).routes())
    errors.install(app)
    app.add_middleware(ApiAuthMiddleware, access=access, keys=keys)
    app.add_middleware(
        ApiCorsMiddleware, origins=access.origins
    )  # browsers ask before they send a key
    app.add_middleware(RequestIdMiddleware)
