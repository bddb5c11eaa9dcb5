"""The HTTP API: OpenAI's routes, the admin routes, /health and /metrics, on the page's port."""

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
    """Adds routes, error handlers and middleware to `app`; counts and logs requests.

    Args:
        attempts: counts wrong keys, together with the wrong passwords of the page.
        checks: the health checks of /health, in addition to the engine's.
    """
    keys = KeyAttempts(access, attempts or AttemptLimiter())
    health_checks = HealthChecks([engine_check(manager), *checks])
    metrics = Metrics(manager, health_checks)
    manager.add_listener(metrics.count)
    manager.add_listener(logs.log_reply)
    routers = [
        health.router(manager, metrics, health_checks),
        routes.router(manager),
        admin.router(manager, access, keys),
    ]
    for router in routers:
        app.include_router(router)
    app.router.routes.extend(routes.NotFoundFallback(routers).routes())
    errors.install(app)
    app.add_middleware(ApiAuthMiddleware, access=access, keys=keys)
    # Outside of the key check: a browser's preflight request has no key.
    app.add_middleware(ApiCorsMiddleware, origins=access.origins)
    app.add_middleware(RequestIdMiddleware)
