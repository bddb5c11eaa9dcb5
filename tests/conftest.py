"""What the tests share: a tiny random LLaMA, the embedded default, adapters, and a fake engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from playwright.sync_api import Browser, expect

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # each has a core, and threads of two would wait in turns
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from model.config.settings import APP_NAME
from model.default_model import ensure_default_model
from tests.tiny_model import make_adapter, make_extended_adapter, make_folder
from tests.web.browser import PATIENCE, chromium, page_state

# httpx waits 5 seconds, unless it is told otherwise, and has no public way to change that for all
# requests. A loaded machine takes longer to build its first page.
for phase in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, phase, PATIENCE / 1000)
# Ignored where a shell has started the tests in the background: those that interrupt would hang.
signal.signal(signal.SIGINT, signal.default_int_handler)

MakeAdapter = Callable[..., Path]


def pytest_xdist_auto_num_workers() -> int:
    """Three processes on two cores: browsers, servers and tests wait for each other."""
    return max(2, (os.cpu_count() or 1) * 3 // 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: at the end, one process would wait for the other."""
    items.sort(key=lambda item: "real_model" not in item.path.parts)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds what the open pages show to the report of a failed test."""
    report = yield
    browser = getattr(item, "funcargs", {}).get("browser")
    if call.when == "call" and report.failed and browser is not None:
        pages = [page for context in browser.contexts for page in context.pages]
        report.sections += [(f"page {page.url}", page_state(page)) for page in pages]
    return report


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a random two-layer LLaMA and a tokenizer of its own."""
    return make_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def default_folder() -> Path:
    """The embedded default, fetched and converted where it is not in the cache yet, and kernels."""
    from platformdirs import user_cache_path

    from model.layers.kernel_build import KernelBuild, supported

    cache = user_cache_path(APP_NAME)
    cache.mkdir(parents=True, exist_ok=True)
    # Of the processes that test, the first one fetches and compiles. Without the lock, each would.
    with FileLock(cache / "tests.lock"):
        assert not supported("cpu", "8bit") or KernelBuild(cache).wait()
        return ensure_default_model(cache, lambda phase, share: None)


@pytest.fixture(scope="session")
def tiny_adapters(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Adapters for the tiny model: other ranks, targets and scalings, layers of their own, and a
    vocabulary of its own."""
    parent = tmp_path_factory.mktemp("adapters")
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    make_adapter(tiny_folder, parent / "qv", seed=1, r=4, target_modules=["q_proj", "v_proj"])
    make_adapter(tiny_folder, parent / "all", seed=2, r=8, target_modules=every)
    make_adapter(
        tiny_folder, parent / "rs", seed=3, r=3, use_rslora=True, target_modules=["down_proj"]
    )
    make_adapter(
        tiny_folder, parent / "patterned", seed=4, r=2, target_modules=["o_proj", "up_proj"],
        rank_pattern={"layers.1.mlp.up_proj": 5}, alpha_pattern={"o_proj": 40},
    )  # fmt: skip
    for name, layers in (("head", ["lm_head"]), ("whole", ["embed_tokens", "lm_head"])):
        make_adapter(
            tiny_folder, parent / name, seed=len(name), r=2, target_modules=["v_proj"],
            modules_to_save=layers,
        )  # fmt: skip
    make_extended_adapter(tiny_folder, parent / "extended")
    return parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, one for each file of tests: it holds an event loop while it runs."""
    expect.set_options(timeout=PATIENCE)
    with chromium() as browser:
        yield browser
