"""/metrics and the logs of requests."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from model.config.settings import CHECKOUT, Settings
from model.types import EngineRequest
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.log_state import restored_logging
from web import logs
from web.access import AccessPolicy

SECRET = "what-nobody-else-may-read"
HELLO = [{"role": "user", "content": SECRET}]


def failing(prompt: str, request: EngineRequest) -> list[str]:
    return ["half ", "<fail>"] if "fail" in prompt else echo(prompt, request)


def samples(url: str) -> dict[tuple[str, ...], float]:
    """Returns all samples by their names and label values."""
    answer = httpx.get(f"{url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def ask(url: str, model: str, text: str = SECRET, **fields: Any) -> httpx.Response:
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, **fields}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers={"X-Request-Id": "r-1"})


@pytest.fixture
def url() -> Iterator[str]:
    manager = fake_manager(FakeEngine(failing))
    manager.wait()
    with serving(manager) as address:
        yield address


def test_replies_are_counted_by_adapter(url: str) -> None:
    for model in ("pirate", "pirate", "fake-base"):
        ask(url, model)
    ask(url, "pirate", n=2, stream=True)
    ask(url, "fake-base", "fail")
    for model in ("nobody", "torn"):
        ask(url, model)
    found = samples(url)
    count = "linly_requests_total"
    assert found[count, "pirate", "stop", "chat"] == 4
    assert found[count, "base", "stop", "chat"] == 1
    assert found[count, "base", "error", "chat"] == 1
    assert found[count, "", "model_not_found", "chat"] == 1
    assert found[count, "", "adapter_broken", "chat"] == 1
    assert found["linly_completion_tokens_total", "pirate"] == 12
    assert found["linly_cached_tokens_total", "pirate"] == 8
    assert found["linly_prompt_tokens_total", "pirate"] > 40
    assert found["linly_first_token_seconds_count", "pirate"] == 4
    assert found["linly_token_seconds_sum", "pirate"] == pytest.approx(0.4)
    assert found["linly_queue_seconds_count",] == 6


def test_metrics_have_the_engine_s_state(url: str) -> None:
    found = samples(url)
    assert found["linly_ready",] == 1
    assert found["linly_running",] == found["linly_waiting",] == 0
    assert found["linly_batch_size_count",] == 7  # five steps of one, and two of three
    assert found["linly_batch_size_sum",] == 11
    assert found["linly_batch_size_bucket", "1"] == 5
    assert found["linly_batch_size_bucket", "3"] == found["linly_batch_size_bucket", "+Inf"] == 7
    assert found["linly_model_info", "fake-base", "cpu", "fake", "8bit"] == 1
    assert found["process_resident_memory_bytes",] > 1e6


def test_metrics_of_the_dashboard_exist(url: str) -> None:
    """A renamed metric would leave a panel empty without an error."""
    board = json.loads((CHECKOUT / "docs" / "grafana.json").read_text(encoding="utf-8"))
    drawn = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:linly|process)_[a-z_]+", target["expr"])
    }
    ask(url, "pirate")
    existing = {sample[0] for sample in samples(url)} | {"linly_cache_budget_bytes"}  # if bounded
    assert len(drawn) > 20
    assert drawn <= existing
    places = [panel["gridPos"] for panel in board["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)


def test_unknown_models_do_not_become_label_values(url: str) -> None:
    """Else clients could fill the memory of the metrics' collector."""
    before = len(samples(url))
    ask(url, "nobody")
    ask(url, "somebody")
    assert len(samples(url)) == before + 2  # the refusals' counter, and its creation time


def test_tokens_of_an_aborted_reply_are_counted() -> None:
    engine = FakeEngine(lambda prompt, request: ["word "] * 1000, ticking=True)
    manager = fake_manager(engine)
    manager.wait()
    with serving(manager) as url:
        engine.tick(3)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/completions", json={"prompt": "x"}, timeout=1.0)
        while not (found := samples(url)).get(("linly_requests_total", "base", "abort",
                                               "completion")):  # fmt: skip
            engine.tick()
        assert found["linly_completion_tokens_total", "base"] >= 3


@pytest.fixture
def own_logging() -> Iterator[None]:
    """Restores the logging of the process after the test."""
    with restored_logging():
        yield


def printed(settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    """Sends requests, and returns what the program prints."""
    logs.configure(settings)
    manager = fake_manager(FakeEngine(echo), settings=settings)
    manager.wait()
    with serving(manager, AccessPolicy(api_keys=("top-secret-key",))) as url:
        headers = {"Authorization": "Bearer top-secret-key", "X-Request-Id": "r-1"}
        body = {"model": "pirate", "messages": HELLO}
        httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers)
        httpx.post(f"{url}/v1/chat/completions", json={**body, "model": "a\nb"}, headers=headers)
        httpx.get(f"{url}/v1/x%0Ay", headers={**headers, "Authorization": "Bearer guessed-key"})
    logs.print_status("a line of the program's own")
    return capsys.readouterr().out


def test_requests_are_not_logged_by_default(
    own_logging: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert printed(Settings(), capsys) == "a line of the program's own\n"


def test_requests_are_logged_as_text(own_logging: None, capsys: pytest.CaptureFixture[str]) -> None:
    output = printed(Settings(log_requests=True), capsys)
    lines = output.splitlines()
    assert len(lines) == 6  # two replies, three requests, and the program's own: none is forged
    assert "r-1 chat by pirate: stop, " in lines[0]
    assert "r-1 POST /v1/chat/completions 200 in " in lines[1]
    assert "model_not_found" in lines[2]
    assert "/v1/x\\ny 401 " in lines[4]
    for hidden in (SECRET, "top-secret-key", "guessed-key"):
        assert hidden not in output


def test_requests_are_logged_as_json(own_logging: None, capsys: pytest.CaptureFixture[str]) -> None:
    output = printed(Settings(log_requests=True, log_format="json"), capsys)
    lines = [json.loads(line) for line in output.splitlines()]
    reply, request, refused, *_, own = lines
    assert reply["request_id"] == request["request_id"] == "r-1"
    assert (reply["adapter"], reply["ended"], reply["completion_tokens"]) == ("pirate", "stop", 3)
    assert reply["adapter_digest"] == "d1" * 32
    assert (request["method"], request["status"]) == ("POST", 200)
    assert refused["ended"] == "model_not_found"
    assert own["message"] == "a line of the program's own"
    assert {"time", "level", "logger"} <= own.keys()
    for hidden in (SECRET, "top-secret-key", "guessed-key"):
        assert hidden not in output


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_prompts_logs_prompts_and_replies(
    own_logging: None, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    output = printed(Settings(log_prompts=True, log_format=form), capsys)
    assert SECRET in output
    assert f"pirate heard: {SECRET}" in output
    assert "top-secret-key" not in output
