"""Two copies of this program: the second uses the first as its model server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from model.config.settings import CHECKOUT, Settings
from model.serving.manager import ModelManager
from tests.web.app_server import serving

BODY = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9, "temperature": 0}


@contextmanager
def served(folder: Path, adapters: Path, engine_url: str | None = None) -> Iterator[str]:
    settings = Settings(
        base_model=str(folder), adapters_dir=adapters, quantization="none",
        prompts_dir=CHECKOUT / "prompts", engine_url=engine_url,
    )  # fmt: skip
    manager = ModelManager(settings)
    manager.start()
    assert manager.wait(120).ready
    with serving(manager) as address:
        yield address


@pytest.mark.parametrize("model", ["tiny", "qv"])
def test_second_copy_gives_the_replies_of_the_first(
    tiny_folder: Path, tiny_adapters: Path, model: str
) -> None:
    """The fields that the remote engine sends are among those that the API serves or accepts."""
    with (
        served(tiny_folder, tiny_adapters) as first,
        served(tiny_folder, tiny_adapters, f"{first}/v1") as second,
    ):
        bodies = [
            {**BODY, "model": model},
            {**BODY, "model": model, "ignore_eos": True, "top_p": 0},
            {**BODY, "model": model, "logprobs": True, "top_logprobs": 3, "max_tokens": 40},
        ]
        for body in bodies:
            texts = [
                httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60).json()["choices"]
                for url in (first, second)
            ]
            assert texts[0] == texts[1]
