"""Starts `app.py` with a sampler of its event loop: `python sampled_app.py FILE [its flags]`.

The sampler asks the loop to call it every few milliseconds. Each call that comes late becomes a
line of FILE (see `late`): it tells how long the loop did something else.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[2]))

import uvicorn

import app
from bench.page_load.late import LateFile

STEP = 0.002  # seconds between two calls
LEAST = 0.002  # seconds; what is less late is not told


def main() -> int:
    with LateFile(Path(sys.argv[1])) as file:
        _sample_servers(file)
        return app.main(sys.argv[2:])


def _sample_servers(file: LateFile) -> None:
    """Have each server's event loop sampled from its start."""
    startup = uvicorn.Server.startup

    async def sampled(server: uvicorn.Server, *args: Any, **kwargs: Any) -> None:
        sample(asyncio.get_running_loop(), file)
        await startup(server, *args, **kwargs)

    uvicorn.Server.startup = sampled  # type: ignore[method-assign, assignment]


def sample(loop: asyncio.AbstractEventLoop, file: LateFile) -> None:
    """Look at `loop` from now on."""
    due = time.monotonic() + STEP

    def look() -> None:
        late = time.monotonic() - due
        if late > LEAST:
            file.add(late)
        sample(loop, file)

    loop.call_later(STEP, look)


if __name__ == "__main__":
    sys.exit(main())
