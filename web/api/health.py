"""/health and /metrics: how the model is, for whoever watches over it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from model.manager import ModelManager
from model.types import Phase, Status
from web.api import responses
from web.metrics import Metrics


@dataclass(frozen=True)
class Watch:
    """The routes' handlers."""

    manager: ModelManager
    measured: Metrics

    async def health(self) -> JSONResponse:
        """How the model is; answers from the first second."""
        status = self.manager.status()
        return JSONResponse(health(status), status_code=200 if status.ready else 503)

    def metrics(self) -> Response:
        """Prometheus' text format."""
        return Response(self.measured.text(), media_type=CONTENT_TYPE_LATEST)


def router(manager: ModelManager, metrics: Metrics) -> APIRouter:
    watch = Watch(manager, metrics)
    routes = APIRouter(tags=["watching"])
    not_ready: responses.Documented = {
        503: {"model": responses.Health, "description": "Not ready: loading, or failed"}
    }
    routes.add_api_route(
        "/health", watch.health, response_model=responses.Health, responses=not_ready, name="health"
    )
    text: responses.Documented = {
        200: {"description": "Prometheus' text", "content": {"text/plain": {}}}
    }
    routes.add_api_route(
        "/metrics", watch.metrics, response_class=Response, responses=text, name="metrics"
    )
    for path, handler in (("/health", watch.health), ("/metrics", watch.metrics)):
        routes.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
    return routes


def health(status: Status) -> dict[str, Any]:
    """The body of /health."""
    state = "error" if status.phase is Phase.FAILED else "ready" if status.ready else "loading"
    return {
        "status": state,
        "progress": status.progress,
        "base_model": status.base_model,
        "engine": status.engine,
        "device": status.device,
        "quantization": status.quantization,
        "running": status.running,
        "waiting": status.waiting,
        "error": status.error,
    }
