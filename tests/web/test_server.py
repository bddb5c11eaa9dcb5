"""The application that `build_app` assembles."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.fake_engine import FakeEngine, echo, fake_manager
from web.access import AccessPolicy
from web.chats.open_store import open_store
from web.server import build_app


def test_the_application_starts_nothing_that_polls(tmp_path: Path) -> None:
    """Gradio's queue polled for work a thousand times a second, which took 4% of a core."""
    manager = fake_manager(FakeEngine(echo))
    store_handle = open_store(tmp_path, None)
    app = build_app(manager, AccessPolicy(), store_handle, data_dir=tmp_path)

    async def tasks() -> int:
        async with app.router.lifespan_context(app):
            await asyncio.sleep(0)
            return len(asyncio.all_tasks()) - 1  # without this one

    try:
        assert asyncio.run(tasks()) == 0
    finally:
        store_handle.close()
        manager.close()
