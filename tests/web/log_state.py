"""Checks and restores the logging of the process."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from web import logs


@pytest.fixture
def no_stack_trace(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[None]:
    """Fails a test during which a stack trace was logged or printed."""
    caplog.set_level(logging.WARNING)
    yield
    assert [record for record in caplog.records if record.exc_info] == []
    assert "Traceback" not in capfd.readouterr().err


@contextmanager
def restored_logging() -> Iterator[None]:
    """Restores the logging after a test that configures it."""
    loggers = [logging.getLogger(), logs.REQUESTS, logs.STATUS, logs.PRINTED]
    before = [(log, list(log.handlers), log.level, log.propagate) for log in loggers]
    uvicorn = logging.getLogger("uvicorn.error")
    before.append((uvicorn, list(uvicorn.handlers), uvicorn.level, uvicorn.propagate))
    uvicorn.setLevel(logging.NOTSET)  # the server of an earlier test may have raised it
    factory, hook = logging.getLogRecordFactory(), threading.excepthook
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        threading.excepthook = hook
        logging.setLogRecordFactory(factory)
        logging.captureWarnings(False)
        for logger, handlers, level, propagate in before:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
