"""Tokenizers that several files of tests use, and the same random numbers in every run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from model.text.fast_tokenizer import FastTokenizer
from model.text.spm_tokenizer import SpmTokenizer
from tests.model.tokenizers import LIKE_T5, make_fast, make_spm


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture(scope="module")
def fast(folder: Path) -> FastTokenizer:
    return make_fast(folder)


@pytest.fixture(scope="module")
def spm(folder: Path) -> SpmTokenizer:
    return make_spm(folder)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory: pytest.TempPathFactory) -> SpmTokenizer:
    return make_spm(tmp_path_factory.mktemp("unigram"), **LIKE_T5)
