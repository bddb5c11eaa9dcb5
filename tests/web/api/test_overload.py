"""More requests than fit into the queue, over HTTP, with a real engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model.config.settings import CHECKOUT, Settings
from model.serving.manager import ModelManager
from tests.web.app_server import serving

USERS = 24
NAMES = ("tiny", "qv", "all", "rs")


@pytest.fixture
def manager(tiny_folder: Path, tiny_adapters: Path) -> ModelManager:
    settings = Settings(
        base_model=str(tiny_folder), adapters_dir=tiny_adapters, quantization="none",
        prompts_dir=CHECKOUT / "prompts", max_sequences=2, max_waiting=3,
    )  # fmt: skip
    manager = ModelManager(settings)
    manager.start()
    assert manager.wait(120).ready
    return manager


@pytest.fixture
def url(manager: ModelManager) -> Iterator[str]:
    with serving(manager) as address:
        yield address


@pytest.mark.slow
def test_overload_gives_429_only_and_leaves_no_state(url: str, manager: ModelManager) -> None:
    """A quarter of the clients disconnect during the reply; the others retry after a 429."""
    answers: list[httpx.Response] = []
    together = threading.Barrier(USERS)

    def ask(number: int) -> None:
        body = {
            "model": NAMES[number % len(NAMES)], "prompt": f"number {number}", "max_tokens": 40,
            "ignore_eos": True, "stream": number % 2 == 0,
        }  # fmt: skip
        together.wait()
        while True:
            answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60)
            answers.append(answer)
            if answer.status_code != 429:
                return
            assert answer.json()["error"]["type"] == "rate_limit_error"
            assert int(answer.headers["retry-after"]) >= 1
            time.sleep(0.1)  # less than Retry-After, so that clients compete

    def leave(number: int) -> None:
        together.wait()
        body = {"prompt": f"number {number}", "max_tokens": 400, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
            next(answer.iter_lines())

    leavers = USERS // 4
    threads = [
        threading.Thread(target=leave if number < leavers else ask, args=(number,))
        for number in range(USERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) == USERS - leavers
    assert set(statuses) <= {200, 429}
    while manager.status().running or manager.status().waiting:
        httpx.get(f"{url}/health")  # aborted replies end at the next step
    assert not manager._runner.live_ids
