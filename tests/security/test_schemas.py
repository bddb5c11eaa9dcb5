"""schemathesis tests the page's endpoints with values that their models allow and forbid, in any
order, as one visitor. The OpenAPI document is made from the models, so it has all actions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import MagicMock

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.security.conftest import Served
from tests.security.test_actions import BODIES
from tests.web.page_client import Caller, shown_message
from web.ui.actions import Actions
from web.ui.request_models import Export

pytestmark = [
    pytest.mark.slow,
    # The server runs in this process, and hypothesis takes its random numbers for the strategy's.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies"),
]

EXAMPLES = 25  # of each endpoint, and of each kind of value
PROFILE = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
    phases=[Phase.generate],  # shrinking asks hundreds of times, and the first example says enough
    suppress_health_check=list(HealthCheck),  # they go by the clock
)  # fmt: skip


@pytest.fixture(scope="module")
def mallory(page: Served, anna: Caller) -> Iterator[Caller]:
    with Caller(page.own) as mallory:
        yield mallory


def bodies() -> dict[str, Any]:
    """The JSON schema of each post's body, by its path."""
    registered = Actions(*[MagicMock() for _ in range(5)], training=MagicMock()).registered
    models = {kind: model for kind, (model, _) in registered.items()}
    assert set(models) == set(BODIES)
    paths = {f"/page/actions/{kind}": model.model_json_schema() for kind, model in models.items()}
    return {**paths, "/page/export": Export.model_json_schema()}


def document() -> dict[str, Any]:
    """Returns the page's POST endpoints as an OpenAPI document."""

    def operation(schema: dict[str, Any]) -> dict[str, Any]:
        content = {"application/json": {"schema": schema}}
        return {"requestBody": {"required": True, "content": content},
                "responses": {"200": {"description": "done"}}}  # fmt: skip

    definitions: dict[str, Any] = {}
    paths = {}
    for path, schema in bodies().items():
        definitions |= schema.pop("$defs", {})
        moved = json.dumps(schema).replace("#/$defs/", "#/components/schemas/")
        paths[path] = {"post": operation(json.loads(moved))}
    moved = json.dumps(definitions).replace("#/$defs/", "#/components/schemas/")
    return {"openapi": "3.1.0", "info": {"title": "page", "version": "1"}, "paths": paths,
            "components": {"schemas": json.loads(moved)}}  # fmt: skip


DOCUMENT = schemathesis.openapi.from_dict(document())
PATHS = sorted(document()["paths"])


def is_answered(mallory: Caller, case: schemathesis.Case) -> int:
    """Checks that the response is a success or an error with a message; returns the status."""
    body = json.dumps(case.body) if not isinstance(case.body, bytes) else case.body
    answer = mallory.post(case.path, body)
    if case.path == "/page/export" and answer.status_code == 200:
        return 200
    sentence = shown_message(answer)
    assert answer.status_code == 200 or (400 <= answer.status_code < 500 and sentence)
    return answer.status_code


@pytest.mark.parametrize("path", PATHS)
def test_values_that_a_model_allows(page: Served, mallory: Caller, path: str) -> None:
    operation = DOCUMENT[path]["POST"]

    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    @PROFILE
    def allowed(case: schemathesis.Case) -> None:
        is_answered(mallory, case)
        page.public.revoked = False  # a local visitor may revoke the link

    allowed()


@pytest.mark.parametrize("path", PATHS)
def test_values_that_a_model_forbids(mallory: Caller, path: str) -> None:
    operation = DOCUMENT[path]["POST"]

    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    @PROFILE
    def forbidden(case: schemathesis.Case) -> None:
        assert is_answered(mallory, case) in (400, 404, 405, 413, 415, 422)

    forbidden()
