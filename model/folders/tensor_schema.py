"""Which tensors a LLaMA of some sizes has, held against those that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model.diagnostics import Finding, finding, folder_error
from model.folders.model_folder import IGNORED, MAX_SIZES
from model.folders.weights import LazyTensor
from model.tensor_names import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    LINEAR_PATHS,
    POST_ATTENTION_NORM,
    layer_path,
    linear_sizes,
)
from model.translations import LocalizedText

Shape = tuple[int, ...]


def expected_tensors(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Name and shape of every tensor, but for biases and a tied head, which may be there or not.

    Raises:
        ModelFolderError: `config`, a config.json, lacks a size, or they do not belong together.
    """
    hidden, wide = _size(config, "hidden_size"), _size(config, "intermediate_size")
    heads, vocab = _size(config, "num_attention_heads"), _size(config, "vocab_size")
    keys = _size(config, "num_key_value_heads", heads)
    each = _size(config, "head_dim", hidden // heads)
    if heads % keys:
        said = LocalizedText("heads_not_divided", {"keys": keys, "heads": heads})
        raise folder_error("config_unsound", file="config.json", said=said)
    sizes = linear_sizes(hidden, wide, heads, keys, each)
    parts: dict[str, Shape] = {
        LINEAR_PATHS[module]: (outputs, inputs) for module, (inputs, outputs) in sizes.items()
    }
    parts |= {INPUT_NORM: (hidden,), POST_ATTENTION_NORM: (hidden,)}
    layers = _size(config, "num_hidden_layers")
    if layers > MAX_SIZES["num_hidden_layers"]:  # their names would fill the memory
        value = f"num_hidden_layers is {layers}"
        raise folder_error("config_unsound", file="config.json", said=value)
    found: dict[str, Shape] = {EMBEDDING: (vocab, hidden)}
    for layer in range(layers):
        found |= {f"{layer_path(layer, part)}.weight": shape for part, shape in parts.items()}
    found[FINAL_NORM] = (hidden,)
    if not config.get("tie_word_embeddings"):
        found[HEAD] = (vocab, hidden)
    return found


def diff_tensors(
    config: Mapping[str, Any], tensors: Iterable[LazyTensor], folder: Path
) -> Iterator[Finding]:
    """What is wrong with `tensors` as the weights of `folder`, which `config` describes."""
    expected = expected_tensors(config)
    held = [tensor for tensor in tensors if not tensor.name.endswith(IGNORED)]
    counts = Counter(tensor.name for tensor in held)
    missing = [name for name in expected if name not in counts]
    if missing:
        yield finding("tensor_missing", count=len(missing), name=missing[0], folder=folder)
    for name in _unexpected_tensors(counts, expected):
        yield finding("tensor_unknown", folder=folder, name=name)
    for tensor in held:
        shape = expected.get(tensor.name, tensor.shape)
        if tensor.shape != shape:
            yield finding("tensor_shape", name=tensor.name, folder=folder, shape=list(tensor.shape))


def _unexpected_tensors(counts: Counter[str], expected: Mapping[str, Shape]) -> list[str]:
    """Names that nothing stands for, or twice; a bias belongs to a weight."""

    def known(name: str) -> bool:
        return (
            name in expected or name == HEAD or f"{name.removesuffix('.bias')}.weight" in expected
        )

    return [name for name, count in counts.items() if count > 1 or not known(name)]


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        said = f"{name} is {value!r}"
        raise folder_error("config_unsound", file="config.json", said=said)
    return value
