"""The embedded default in 8-bit with the shipped adapters, served to a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from platformdirs import user_cache_path
from playwright.sync_api import expect

from model.config.settings import APP_NAME, CHECKOUT, Settings
from model.serving.manager import ModelManager
from model.types import Phase
from tests.web.app_server import serving
from tests.web.browser import PATIENCE
from training.job import TrainingRunner
from web.access import AccessPolicy
from web.training.service import TrainingService


@pytest.fixture(autouse=True)
def _patience() -> None:
    expect.set_options(timeout=4 * PATIENCE)  # a real model on a busy machine


@pytest.fixture(scope="module")
def settings(default_folder: Path) -> Settings:
    return Settings(
        base_model=str(default_folder),
        adapters_dir=CHECKOUT / "adapters",
        prompts_dir=CHECKOUT / "prompts",
        cache_dir=user_cache_path(APP_NAME),
        threads=1,  # other tests need the other cores
    )


@pytest.fixture(scope="module")
def manager(settings: Settings) -> ModelManager:
    manager = ModelManager(settings)
    manager.start()
    status = manager.wait()
    assert status.phase is Phase.READY, status.error
    return manager


@pytest.fixture(scope="module")
def url(manager: ModelManager, settings: Settings) -> Iterator[str]:
    training = TrainingService(settings, manager, TrainingRunner())
    with serving(manager, AccessPolicy(training="local"), training) as address:
        yield address
