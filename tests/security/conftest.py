"""Fixtures: servers to attack, and a visitor whom no attack may affect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from model.config.settings import Settings
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.security.raw_app import App
from tests.security.raw_client import running
from tests.web.app_server import serving
from tests.web.page_client import Caller, shown_message
from training.job import TrainingRunner
from web import page_middleware
from web.access import AccessPolicy
from web.listen_socket import bind
from web.public_link.limits import LinkRules, PublicLink
from web.training.service import TrainingService


@dataclass
class Served:
    """A page with the Train tab, at its own port and at the link's."""

    own: str
    link: str
    public: PublicLink
    engine: FakeEngine


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    engine = FakeEngine(echo)
    settings = replace(Settings(), adapters_dir=folder / "adapters", data_dir=folder)
    manager = fake_manager(engine, settings=settings)
    manager.wait()
    tunnel = bind("127.0.0.1", 0)
    port = tunnel.getsockname()[1]
    public = PublicLink(LinkRules(), lambda: None)
    training = TrainingService(settings, manager, TrainingRunner())
    access = AccessPolicy(training="local", link_port=port)
    with serving(manager, access, training, tunnel, folder, public) as url:
        yield Served(url, f"http://127.0.0.1:{port}", public, engine)


@pytest.fixture(scope="module")
def patient() -> Iterator[None]:
    """High rate limits, as one visitor sends all attacks; test_page_middleware.py tests them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(page_middleware, "VISITOR_BURST", 100_000)
        patched.setattr(page_middleware, "ADDRESS_BURST", 100_000)
        yield


@pytest.fixture(scope="module")
def page(patient: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture(scope="module")
def anna(page: Served) -> Iterator[Caller]:
    """A visitor with a chat, which no attack may change."""
    with Caller(page.own) as anna:
        anna.begin("precious")
        before = anna.chats()
        yield anna
        assert anna.chats() == before
        assert shown_message(anna.send("and on")) == ""


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def port(app: App) -> Iterator[int]:
    """The port of a server of `app`."""
    with running(app) as number:
        yield number
    app.released.set()
