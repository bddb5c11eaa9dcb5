"""Names and shapes of the tensors of a LLaMA, and their comparison with those of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from model.diagnostics import Finding, finding, folder_error
from model.folders.lazy_tensor import LazyTensor
from model.folders.model_config import MAX_SIZES
from model.folders.model_folder import IGNORED
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
    """Returns the shape of each required tensor by name; biases and a tied head are optional.

    Raises:
        ModelFolderError: `config`, a config.json, lacks a size, or its sizes do not fit together.
    """
    hidden, vocab = _size(config, "hidden_size"), _size(config, "vocab_size")
    layer_shapes = _layer_shapes(config)
    num_layers = _size(config, "num_hidden_layers")
    if num_layers > MAX_SIZES["num_hidden_layers"]:  # the names would fill the memory
        problem = f"num_hidden_layers is {num_layers}"
        raise folder_error("config_unsound", file="config.json", said=problem)
    expected: dict[str, Shape] = {EMBEDDING: (vocab, hidden)}
    for layer in range(num_layers):
        expected |= {
            f"{layer_path(layer, part)}.weight": shape for part, shape in layer_shapes.items()
        }
    expected[FINAL_NORM] = (hidden,)
    if not config.get("tie_word_embeddings"):
        expected[HEAD] = (vocab, hidden)
    return expected


def _layer_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Returns the shapes of the tensors of one decoder layer, by their names within it."""
    hidden, intermediate = _size(config, "hidden_size"), _size(config, "intermediate_size")
    heads = _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", heads)
    head_dim = _size(config, "head_dim", hidden // heads)
    if heads % kv_heads:
        problem = LocalizedText("heads_not_divided", {"keys": kv_heads, "heads": heads})
        raise folder_error("config_unsound", file="config.json", said=problem)
    sizes = linear_sizes(hidden, intermediate, heads, kv_heads, head_dim)
    shapes: dict[str, Shape] = {
        LINEAR_PATHS[module]: (outputs, inputs) for module, (inputs, outputs) in sizes.items()
    }
    return shapes | {INPUT_NORM: (hidden,), POST_ATTENTION_NORM: (hidden,)}


def diff_tensors(
    config: Mapping[str, Any], tensors: Iterable[LazyTensor], folder: Path
) -> Iterator[Finding]:
    """Yields the differences between `tensors` and the weights that `config` describes.

    Args:
        config: the config.json of `folder`.
        tensors: those of its weight files.
        folder: named in the findings.
    """
    expected = expected_tensors(config)
    relevant = [tensor for tensor in tensors if not tensor.name.endswith(IGNORED)]
    counts = Counter(tensor.name for tensor in relevant)
    missing = [name for name in expected if name not in counts]
    if missing:
        yield finding("tensor_missing", count=len(missing), name=missing[0], folder=folder)
    for name in _unexpected_tensors(counts, expected):
        yield finding("tensor_unknown", folder=folder, name=name)
    for tensor in relevant:
        shape = expected.get(tensor.name, tensor.shape)
        if tensor.shape != shape:
            yield finding("tensor_shape", name=tensor.name, folder=folder, shape=list(tensor.shape))


def _unexpected_tensors(counts: Counter[str], expected: Mapping[str, Shape]) -> list[str]:
    """Returns the names that are unknown or occur twice; a bias belongs to a weight."""

    def is_known(name: str) -> bool:
        return (
            name in expected or name == HEAD or f"{name.removesuffix('.bias')}.weight" in expected
        )

    return [name for name, count in counts.items() if count > 1 or not is_known(name)]


def _size(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        problem = f"{name} is {value!r}"
        raise folder_error("config_unsound", file="config.json", said=problem)
    return value
