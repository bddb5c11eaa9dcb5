"""Restores the logging of the process after a test that configures it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from web import logs


@contextmanager
def restored_logging() -> Iterator[None]:
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
