"""Checks an adapter's own embedding, head and tokenizer against its base's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from model.bounded_files import UnfitFileError, require_inside
from model.diagnostics import Finding, adapter_error, finding
from model.errors import AdapterError, ModelFolderError
from model.folders.base_info import BaseInfo
from model.tensor_names import EMBEDDING
from model.text.tokenizer import TextSpan, Tokenizer
from model.text.tokenizer_files import TOKENIZER_FILES, has_tokenizer, is_padded, read_tokenizer

if TYPE_CHECKING:
    from model.folders.lazy_tensor import LazyTensor

# Two tokenizers that encode these texts alike are taken for the same.
SAMPLES = ("Hello, how are you today?", "你好，世界！今天天气很好。", "x = 1 +  2\n")


def check_vocabulary(
    path: Path, full_tensors: Mapping[str, LazyTensor], base: BaseInfo
) -> Iterator[Finding]:
    """Checks the vocabulary of the adapter in `path`, which has these `full_tensors`: its own
    embedding or head.

    Raises:
        AdapterError: they do not fit the base, or have no tokenizer.
    """
    rows = {_rows(name, weight, base) for name, weight in full_tensors.items()}
    tokenizer = adapter_tokenizer(path)
    if rows <= {base.rows}:
        if (
            tokenizer is not None
            and base.tokenizer is not None
            and tokenizer.vocab_size > base.rows
            and tokenizers_differ(tokenizer, base.tokenizer)
        ):
            yield finding("adapter_tokenizer_differs")
        return
    if len(rows) > 1 or len(full_tensors) < 2:
        raise adapter_error("adapter_half_vocabulary", rows=max(rows), base=base.rows)
    if tokenizer is None:
        raise adapter_error("adapter_no_tokenizer", rows=max(rows), base=base.rows)
    if not is_padded(max(rows), tokenizer.vocab_size):
        raise adapter_error("adapter_tokenizer_size", rows=max(rows), pieces=tokenizer.vocab_size)
    replaces = is_other_vocabulary(tokenizer, base)
    yield finding("adapter_vocabulary", rows=max(rows), base=base.rows, replaces=replaces)


def is_other_vocabulary(tokenizer: Tokenizer | None, base: BaseInfo) -> bool:
    """Whether an adapter's tokenizer has other ids for the same text than its base's; else it is
    the base's, maybe with more tokens."""
    if tokenizer is None or base.tokenizer is None:
        return True
    return tokenizers_differ(tokenizer, base.tokenizer)


def replaces_vocabulary(findings: Iterable[Finding]) -> bool:
    """Whether the findings of `check_vocabulary` say that the base's vocabulary is replaced."""
    return any(entry.code == "adapter_vocabulary" and entry.facts["replaces"] for entry in findings)


def adapter_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer in an adapter's folder, if there is one.

    Raises:
        AdapterError: it is torn.
    """
    if not has_tokenizer(path):
        return None
    try:
        for name in TOKENIZER_FILES:
            require_inside(path / name)
        return read_tokenizer(path)[0]
    except ModelFolderError as error:
        raise _to_adapter_error(error, path) from error
    except UnfitFileError as error:
        raise adapter_error("adapter_unreadable", reason=error) from error


def _to_adapter_error(error: ModelFolderError, folder: Path) -> AdapterError:
    """A tokenizer's error as an error of its adapter, with file names instead of paths: clients
    must not learn where the folder is."""
    facts = {
        name: fact.name if isinstance(fact, Path) and fact.parent == folder else fact
        for name, fact in error.text.facts.items()
    }
    return adapter_error(error.text.code, **facts)


def tokenizers_differ(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether they encode the same text differently."""
    spans = [TextSpan(text, control=False) for text in SAMPLES]
    return any(one.encode([span]) != other.encode([span]) for span in spans)


def _rows(name: str, weight: LazyTensor, base: BaseInfo) -> int:
    hidden = base.tensors[EMBEDDING][1]
    if len(weight.shape) != 2 or weight.shape[1] != hidden:
        sizes = " x ".join(map(str, weight.shape))
        raise adapter_error("adapter_own_shape", name=name, found=sizes, hidden=hidden)
    return weight.shape[0]
