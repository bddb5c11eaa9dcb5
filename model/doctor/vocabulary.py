"""An adapter's own embedding, head and tokenizer, against its base's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from model.bounded_files import UnfitFileError, require_inside
from model.diagnostics import Finding, adapter_error, finding
from model.errors import AdapterError, ModelFolderError
from model.folders.base_info import BaseInfo
from model.tensor_names import EMBEDDING
from model.text.tokenizer import TextSpan, Tokenizer
from model.text.tokenizer_files import TOKENIZER, has_tokenizer, read_tokenizer

if TYPE_CHECKING:
    from model.folders.lazy_tensor import LazyTensor

# Two tokenizers that agree on these are the same for what people type.
SAMPLES = ("Hello, how are you today?", "你好，世界！今天天气很好。", "x = 1 +  2\n")


def check_vocabulary(
    path: Path, whole: Mapping[str, LazyTensor], base: BaseInfo
) -> Iterator[Finding]:
    """What the adapter in `path` does to the vocabulary, with the layers that it brings.

    Raises:
        AdapterError: its layers do not fit, or there is no tokenizer for them.
    """
    rows = {_rows(name, weight, base) for name, weight in whole.items()}
    tokenizer = own_tokenizer(path)
    if rows <= {base.rows}:
        if (
            tokenizer is not None
            and base.tokenizer is not None
            and differ(tokenizer, base.tokenizer)
        ):
            yield finding("adapter_tokenizer_differs")
        return
    if len(rows) > 1 or len(whole) < 2:
        raise adapter_error("adapter_half_vocabulary", rows=max(rows), base=base.rows)
    if tokenizer is None:
        raise adapter_error("adapter_no_tokenizer", rows=max(rows), base=base.rows)
    if tokenizer.vocab_size != max(rows):
        raise adapter_error("adapter_tokenizer_size", rows=max(rows), pieces=tokenizer.vocab_size)
    yield finding("adapter_vocabulary", rows=max(rows), base=base.rows)


def own_tokenizer(path: Path) -> Tokenizer | None:
    """The tokenizer in an adapter's folder, if there is one.

    Raises:
        AdapterError: it is torn.
    """
    if not has_tokenizer(path):
        return None
    try:
        for name in TOKENIZER:
            require_inside(path / name)
        return read_tokenizer(path)[0]
    except ModelFolderError as error:
        raise _as_adapters(error, path) from error
    except UnfitFileError as error:
        raise adapter_error("adapter_unreadable", said=error) from error


def _as_adapters(error: ModelFolderError, folder: Path) -> AdapterError:
    """The tokenizer's fault as its adapter's, with files by their names: clients are not told
    where the folder is."""
    facts = {
        name: fact.name if isinstance(fact, Path) and fact.parent == folder else fact
        for name, fact in error.text.facts.items()
    }
    return adapter_error(error.text.code, **facts)


def differ(one: Tokenizer, other: Tokenizer) -> bool:
    """Whether they cut the same text into other ids."""
    runs = [[TextSpan(text, control=False)] for text in SAMPLES]
    return any(one.encode(run) != other.encode(run) for run in runs)


def _rows(name: str, weight: LazyTensor, base: BaseInfo) -> int:
    hidden = base.tensors[EMBEDDING][1]
    if len(weight.shape) != 2 or weight.shape[1] != hidden:
        sizes = " x ".join(map(str, weight.shape))
        raise adapter_error("adapter_own_shape", name=name, found=sizes, hidden=hidden)
    return weight.shape[0]
