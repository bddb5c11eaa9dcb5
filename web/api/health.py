"""The routes /health and /metrics, for monitoring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from model.serving.manager import ModelManager
from model.translations import LocalizedText
from model.types import Phase, Status
from web.api import response_models
from web.health_checks import HealthChecks
from web.metrics import Metrics


@dataclass(frozen=True)
class HealthRoutes:
    """The routes' handlers."""

    manager: ModelManager
    prometheus: Metrics
    checks: HealthChecks

    async def health(self) -> JSONResponse:
        """Whether the program can make and store replies; works while the model is loading."""
        status = self.manager.status()
        problem = await self.checks.problem() if status.ready else None
        ready = status.ready and problem is None
        return JSONResponse(health(status, problem), status_code=200 if ready else 503)

    def metrics(self) -> Response:
        """Prometheus' text format."""
        return Response(self.prometheus.text(), media_type=CONTENT_TYPE_LATEST)


def router(manager: ModelManager, metrics: Metrics, checks: HealthChecks) -> APIRouter:
    """Returns the two routes, for GET and HEAD."""
    handlers = HealthRoutes(manager, metrics, checks)
    routes = APIRouter(tags=["watching"])
    not_ready: response_models.Documented = {
        503: {"model": response_models.Health, "description": "Not ready: loading, or failed"}
    }
    routes.add_api_route(
        "/health",
        handlers.health,
        response_model=response_models.Health,
        responses=not_ready,
        name="health",
    )
    text: response_models.Documented = {
        200: {"description": "Prometheus' text", "content": {"text/plain": {}}}
    }
    routes.add_api_route(
        "/metrics", handlers.metrics, response_class=Response, responses=text, name="metrics"
    )
    for path, handler in (("/health", handlers.health), ("/metrics", handlers.metrics)):
        routes.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
    return routes


def health(status: Status, problem: LocalizedText | None = None) -> dict[str, Any]:
    """Returns the body of /health. A `problem` makes it an error although the model is ready."""
    failed = status.phase is Phase.FAILED or problem is not None
    state = "error" if failed else "ready" if status.ready else "loading"
    return {
        "status": state,
        "progress": status.progress,
        "base_model": status.base_model,
        "engine": status.engine,
        "device": status.device,
        "quantization": status.quantization,
        "running": status.running,
        "waiting": status.waiting,
        "error": str(error) if (error := status.error or problem) else None,
    }
