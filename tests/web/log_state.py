"""The logging of this process as it was, after a test that has configured it."""

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
    before = [(one, list(one.handlers), one.level, one.propagate) for one in loggers]
    uvicorn = logging.getLogger("uvicorn.error")
    before.append((uvicorn, list(uvicorn.handlers), uvicorn.level, uvicorn.propagate))
    uvicorn.setLevel(logging.NOTSET)  # a server of a test before may have asked for less
    factory, hook = logging.getLogRecordFactory(), threading.excepthook
    streams = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        threading.excepthook = hook
        logging.setLogRecordFactory(factory)
        logging.captureWarnings(False)
        for one, handlers, level, propagate in before:
            one.handlers[:], one.propagate = handlers, propagate
            one.setLevel(level)
