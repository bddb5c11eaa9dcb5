"""Clients that try to forge log lines, or to send control characters to the terminal."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from model.config.settings import Settings
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.security.raw_client import exchange, running
from tests.web.app_server import serving
from tests.web.log_state import restored_logging
from web import logs
from web.access import AccessPolicy

# An end of line, a carriage return, colours, a title of the terminal, right-to-left, half a letter.
FORGED = "x\n2026-01-01 ERROR: FORGED\rFORGED\x1b[31m\x1b]0;title\x07\u202e\u2028\x85\ud800"
PATH = "/v1/x%0a2026-01-01%20ERROR:%20FORGED%0d%1b%5b31m%e2%80%ae"


@pytest.fixture(autouse=True)
def _restored(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    with restored_logging():
        yield


class FailingError(Exception):
    """An error with a client's text, as libraries raise it."""


async def failing(scope: Any, receive: Any, send: Any) -> None:
    raise FailingError(f"no such path: {scope['path']}\n{FORGED}")


def log_in_every_way() -> None:
    """Logs or prints a client's text in each way that the program or a library can."""
    logging.getLogger("uvicorn.error").error("Invalid path: %s", FORGED)
    logging.getLogger("some.library").error(f"refused {FORGED}")
    try:
        raise FailingError(FORGED)
    except FailingError:
        logging.getLogger("linly").exception("failed for %s", FORGED)
    thread = threading.Thread(target=failing_thread)
    thread.start()
    thread.join()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning(UserWarning(FORGED), UserWarning, "file.py", 1)
    logs.print_status(f"The adapter {FORGED} is broken")
    logs.log_request("r-1", "GET", FORGED, 404, 0.1)
    print("printed:", FORGED.replace("\n", " "))
    print("printed:", FORGED.replace("\n", " "), file=sys.stderr)
    with running(failing) as port:
        exchange(
            port, b"GET " + PATH.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )


def failing_thread() -> None:
    raise FailingError(FORGED)


def lines_of(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[str]]:
    captured = capsys.readouterr()
    return captured.out.split("\n"), captured.err.split("\n")


def test_no_line_of_text_is_forged(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_requests=True))
    log_in_every_way()
    out, err = lines_of(capsys)
    for line in (*out, *err):
        assert line.isprintable(), repr(line)
        assert not line.startswith("2026-01-01")
    logged = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (WARNING|ERROR): |printed: |    |$")
    assert all(map(logged.match, err))
    assert sum("FORGED" in line and line[:4] != "    " for line in err) == 5
    assert any("FailingError: no such path: " in line for line in err)  # still readable
    assert any(line.startswith('      File "') for line in err)
    assert [line.split(" ")[0] for line in out if "FORGED" in line][::2] == ["The", "printed:"]


def test_everything_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Also what libraries print and warn of."""
    logs.configure(Settings(log_requests=True, log_format="json"))
    log_in_every_way()
    out, err = lines_of(capsys)
    assert err == [""]
    assert all(line.isprintable() for line in out)
    entries = [json.loads(line) for line in out if line]
    assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
    loggers = [entry["logger"] for entry in entries]
    assert loggers == [
        "uvicorn.error", "some.library", "linly", "linly", "py.warnings", "linly.says",
        "linly.requests", "linly.printed", "linly.printed", "uvicorn.error",
    ]  # fmt: skip
    assert entries[6]["path"] == FORGED  # JSON values need no escaping
    assert "FailingError: no such path: /v1/x\n2026" in entries[-1]["exc_info"]
    assert entries[7]["level"] == "INFO"
    assert entries[8]["level"] == "WARNING"


def test_paths_and_models_of_requests(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_requests=True))
    manager = fake_manager(FakeEngine(echo), settings=Settings(log_requests=True))
    manager.wait()
    with serving(manager, AccessPolicy(api_keys=("key",))) as url:
        headers = {"Authorization": "Bearer key"}
        httpx.get(url + PATH, headers=headers)
        body = {"model": FORGED.replace("\ud800", ""), "prompt": "x"}
        httpx.post(f"{url}/v1/completions", json=body, headers=headers)
    out, err = lines_of(capsys)
    assert len(out) == 4
    assert err == [""]
    assert all(line.isprintable() for line in out)


def test_a_progress_bar_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_format="json"))
    for share in range(0, 101, 10):
        sys.stderr.write(f"\rfetching {share}%")
    sys.stderr.write("\n")
    out, _ = lines_of(capsys)
    (entry,) = [json.loads(line) for line in out if line]
    assert entry["message"] == "fetching 100%"


def test_a_handler_that_fails_does_not_log_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Its error is printed, and printed text is logged."""
    logs.configure(Settings(log_format="json"))
    handler = logging.getLogger().handlers[-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler, "format", lambda record: 1 / 0)
        print("printed", file=sys.stderr)
    print("again")
    assert json.loads(lines_of(capsys)[0][0])["message"] == "again"
