"""Findings about model folders and adapters, with their level."""

from __future__ import annotations

import pytest

from model.diagnostics import finding
from model.translations import table

TEXTS = table("en", "diagnostics")


@pytest.mark.parametrize("code", TEXTS)
def test_every_code_has_a_level_and_a_remedy(code: str) -> None:
    assert TEXTS[code]["level"] in ("error", "warning", "note")
    for language in ("en", "zh"):
        entry = table(language, "diagnostics")[code]
        assert entry["message"]
        assert entry["remedy"] or TEXTS[code]["level"] == "note"


def test_finding_has_texts_in_both_languages() -> None:
    oversized = finding("tokenizer_too_large", pieces=49953, rows=32000)
    assert (oversized.level, oversized.code) == ("error", "tokenizer_too_large")
    assert "49953 pieces" in oversized.message()
    assert "49953 个片段" in oversized.message("zh")
