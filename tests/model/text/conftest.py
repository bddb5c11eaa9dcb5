"""The project's own prompt templates."""

from __future__ import annotations

import pytest

from model.config.settings import CHECKOUT
from model.text.prompt_template import PromptTemplate, load_templates


@pytest.fixture(scope="module")
def templates() -> dict[str, PromptTemplate]:
    return load_templates(CHECKOUT / "prompts")
