"""Compares the document at /docs with the API: schemathesis sends requests that the document
allows, and requests that it forbids."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from playwright.sync_api import Browser, expect

from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from web.access import AccessPolicy

ADMIN = "Bearer the-admins"
# Errors of requests that the schema allows: it cannot express dependencies between fields, or
# which models exist.
ALLOWED_ERRORS = (
    "top_logprobs needs logprobs",
    "Log probabilities of a prompt are not supported",
    "the queue has no room",
    "is missing",
    "is a field of the assistant's messages",
    "tools is not supported",
    "functions is not supported",
    "stream_options needs stream",
    "not the same number",
    "min_tokens is more than",
    "The prompts of all choices",
    "best_of must be equal to n",
    "A token id is not between",
    "is longer than the context",
    "tokens long, but only",
    "A stop string",
    "a seed has 64 bits",
    "The prompt is empty",
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    with serving(manager, AccessPolicy(api_keys=("a-key",), admin_key="the-admins")) as address:
        yield address


@pytest.mark.slow
def test_api_matches_its_document(url: str, tmp_path: Path) -> None:
    """Runs schemathesis' program: allowed and forbidden values, other methods, other keys."""
    program = Path(sys.executable).with_name("st")
    # A too large request is refused before it is validated.
    statuses = "[400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429]"
    config = f"[checks]\nnegative_data_rejection.expected-statuses = {statuses}\n"
    (tmp_path / "schemathesis.toml").write_text(config)
    done = subprocess.run(
        [program, "run", f"{url}/openapi.json", "-H", f"Authorization: {ADMIN}", "--no-color",
         "--max-examples", "40", "--generation-deterministic", "--seed", "1", "--no-shrink",
         "--phases", "coverage,fuzzing", "--exclude-checks", "positive_data_acceptance"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert "Tested: 10" in done.stdout


# The server runs in this process, and hypothesis takes its random numbers for the strategy's.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_requests_that_the_document_allows_are_served(url: str, path: str) -> None:
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")

    @given(case=document[path]["POST"].as_strategy())
    @settings(
        max_examples=60, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),  # they go by the clock
    )  # fmt: skip
    def is_served(case: schemathesis.Case) -> None:
        response = case.call(headers={"Authorization": ADMIN})
        if response.status_code == 400:
            message = response.json()["error"]["message"]
            assert any(allowed in message for allowed in ALLOWED_ERRORS), message
        else:
            assert response.status_code in (200, 404, 422), response.text

    is_served()


def test_document_has_all_paths(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    assert set(document["paths"]) == {
        "/health", "/metrics", "/v1/models", "/v1/models/{name}", "/v1/chat/completions",
        "/v1/completions", "/v1/adapters", "/v1/adapters/rescan", "/v1/adapters/{name}/load",
        "/v1/adapters/{name}/unload",
    }  # fmt: skip


@pytest.mark.browser
def test_docs_page_sends_no_request_to_other_hosts(url: str, browser: Browser) -> None:
    page = browser.new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    own = url
    page.goto(f"{own}/docs")
    expect(page.get_by_text("/v1/chat/completions", exact=True)).to_be_visible()
    assert [url for url in requested if not url.startswith((own, "data:", "blob:"))] == []
    page.close()
