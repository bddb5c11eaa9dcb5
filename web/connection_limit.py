"""How many connections the server accepts: each one is an open file."""

from __future__ import annotations

import functools

MAX_CONNECTIONS = 5_000
MAX_REFUSED_CONNECTIONS = 200  # beyond the maximum that still get a response
OTHER_FILES = 200  # open files other than connections: weights, chats, logs


@functools.cache
def max_connections() -> int:
    """Returns how many connections the limit of open files allows, after raising it if possible."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows, which has no such limit
        return MAX_CONNECTIONS
    needed = MAX_CONNECTIONS + MAX_REFUSED_CONNECTIONS + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    target = needed if hard == unlimited else min(needed, hard)
    if soft != unlimited and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        soft = target
    return needed if soft == unlimited else max(soft - OTHER_FILES, 64)
