"""Reads the files of an adapter's folder: its weights, as peft writes them, and its card.

They are foreign input, read up to a bound.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.bounded_files import UnfitFileError, open_file, require_inside
from model.diagnostics import adapter_error
from model.errors import AdapterError, ModelFolderError
from model.folders.adapter_config import (
    CONFIG,
    Key,
    read_config,
    read_json_object,
    read_text_file,
    scaling,
)
from model.folders.adapter_kinds import WHOLE, merged_only
from model.folders.incomplete_folders import training_remains
from model.tensor_names import ATTENTION, MLP
from model.translations import LocalizedText

if TYPE_CHECKING:
    from torch import Tensor

    from model.folders.lazy_tensor import LazyTensor
    from model.layers.lora import Lora, LoraMaker, LoraPair

CARD = "linly_adapter.json"  # written by this program: {"template": …, "description": …}
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
FILES = (CONFIG, CARD, *WEIGHTS)
PREFIX = r"^(?:base_model\.model\.)?"
PAIR_NAME = re.compile(
    PREFIX
    + rf"model\.layers\.(\d+)\.(?:{ATTENTION}|{MLP})\.(\w+)\.lora_(A|B)(?:\.default)?\.weight$"
)
# The weights of a layer that the adapter replaces as a whole: `adapter_kinds.WHOLE`.
WHOLE_NAME = re.compile(
    PREFIX + r"(?:model\.)?(embed_tokens|lm_head)(?:\.modules_to_save(?:\.default)?)?\.weight$"
)
# LoRA or trained tokens on a layer that is no linear one of a decoder layer.
ADAPTED_NAME = re.compile(
    PREFIX + r"(?:model\.)?(embed_tokens|lm_head)\.(?:lora_|base_layer\.|token_adapter\.)"
)
# A tensor that replaces one of the base, as peft names it: under a wrapper that it may have had.
FULL_NAME = re.compile(
    PREFIX + r"((?:model|lm_head|embed_tokens)\b.*?)(?:\.modules_to_save(?:\.default)?)?"
    r"(?:(?:\.token_adapter)?\.base_layer)?\.(weight|bias)$"
)
# A tensor of an adapted layer, such as its lora_A; and one with the trained rows of tokens.
LAYER_TENSOR = re.compile(PREFIX + r"(model\.layers\..+?|model\.embed_tokens|lm_head)\.(lora_.+)$")
TOKENS_TENSOR = re.compile(
    PREFIX + r"(?:model\.)?(embed_tokens|lm_head)\.token_adapter\.trainable_tokens_delta$"
)
BIAS_NAME = re.compile(PREFIX + r"model\..+(?<!lora_A)(?<!lora_B)\.bias$")
FACTOR = re.compile(r"\.lora_[AB]\.")
FLOATS = ("F16", "BF16", "F32", "F64")
ORIGINAL = ".original_module."  # the base's layer, which peft saves beside a resized one


@dataclass
class AdapterTensors:
    """The tensors of a weights file, not read yet: pairs of "A" and "B" by layer and module, and
    layers by name that the adapter replaces as a whole."""

    pairs: dict[Key, dict[str, LazyTensor]] = field(default_factory=dict)
    whole: dict[str, LazyTensor] = field(default_factory=dict)


def read_card(path: Path) -> dict[str, Any]:
    """Reads the card of the adapter in `path`; empty if there is none.

    Raises:
        AdapterError: it is torn.
    """
    return read_json_object(path / CARD) if (path / CARD).is_file() else {}


def opens_thought(card: Mapping[str, Any]) -> bool:
    """Whether the prompts that an adapter was trained with end with an opened thought, where the
    template opens one. See `PromptTemplate`."""
    return card.get("opens_thought") is not False


def load(path: Path, maker: LoraMaker) -> Lora:
    """Loads the weights of the adapter in `path`, which was checked before.

    Raises:
        AdapterError: the files have changed since the check, and are broken now.
    """
    from model.layers.lora import Lora

    config, weights = read_config(path), read_weights(path)

    def pair(key: Key, sides: Mapping[str, LazyTensor]) -> LoraPair:
        a, b = sides["A"].read(), sides["B"].read()
        return maker.make_lora_pair(a, b, scaling(config, key, len(a)))

    whole = {name: maker.make_layer(weight.read()) for name, weight in weights.whole.items()}
    pairs = {key: pair(key, sides) for key, sides in weights.pairs.items()}
    return Lora(pairs, embedding=whole.get("embed_tokens"), head=whole.get("lm_head"))


def digest(path: Path) -> str:
    """Returns the sha256 of the configuration and the weights, which decide what the adapter
    computes; the card does not count."""
    sha256 = hashlib.sha256(read_text_file(path / CONFIG).encode())
    with open_file(weights_file(path)) as file:
        sha256.update(hashlib.file_digest(file, "sha256").digest())
    return sha256.hexdigest()


def weights_file(path: Path) -> Path:
    """Returns the file with the weights of the adapter in `path`.

    Raises:
        AdapterError: there is none, or it is a link that leads out of the folder.
    """
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        remains = training_remains(path)
        if remains is not None:
            raise adapter_error("adapter_in_checkpoint", name=remains.name)
        raise adapter_error("adapter_file_missing", name=WEIGHTS[0])
    try:
        require_inside(file)
    except UnfitFileError as error:
        raise adapter_error("adapter_unreadable", reason=error) from error
    return file


def read_weights(path: Path) -> AdapterTensors:
    """Lists the weights of the adapter in `path` by layer.

    Raises:
        AdapterError: the file is torn, or has an unknown tensor.
    """
    weights = AdapterTensors()
    for tensor in list_adapter_tensors(path):
        if match := PAIR_NAME.match(tensor.name):
            layer, module, side = match.groups()
            weights.pairs.setdefault((int(layer), module), {})[side] = tensor
        elif match := WHOLE_NAME.match(tensor.name):
            weights.whole[match[1]] = tensor
        else:
            raise _unserved(path, tensor.name)
    return weights


def _unserved(path: Path, name: str) -> AdapterError:
    """The error for a tensor that is not served; some kinds can be merged."""
    if match := ADAPTED_NAME.match(name):
        return merged_only(path, LocalizedText("lora_on_layer", {"layer": match[1]}))
    if BIAS_NAME.match(name):
        return merged_only(path, LocalizedText("trained_biases"))
    return adapter_error("adapter_weight_unknown", name=name)


def list_adapter_tensors(path: Path) -> list[LazyTensor]:
    """Lists the tensors of the adapter in `path`, without reading their values.

    Raises (also `read` of each tensor):
        AdapterError: there is no weights file, or it is torn.
    """
    from model.folders.weights import list_tensors

    file = weights_file(path)
    try:
        listed = list_tensors(file, of_adapter=True)
    except ModelFolderError as error:
        raise _as_adapter_error(error, file) from error
    tensors = [_with_adapter_errors(t, file) for t in listed if ORIGINAL not in t.name]
    torn = [tensor.name for tensor in tensors if _is_shard(tensor)]
    if torn:
        raise adapter_error("adapter_not_gathered", count=len(torn), name=torn[0])
    unserved = [tensor.name for tensor in tensors if tensor.dtype not in FLOATS]
    if unserved:
        raise adapter_error(
            "adapter_unreadable",
            reason=LocalizedText("tensor_type_unserved", {"name": unserved[0]}),
        )
    return tensors


def replaced_tensor(name: str) -> str | None:
    """Returns the name of the base's tensor that the tensor `name` of an adapter replaces; None if
    it replaces none."""
    match = FULL_NAME.match(name)
    if match is None or FACTOR.search(name):
        return None
    layer = match[1].removeprefix("model.")
    if layer in WHOLE:
        return f"{WHOLE[layer]}.{match[2]}"
    return f"{match[1]}.{match[2]}"


def _is_shard(tensor: LazyTensor) -> bool:
    """Whether the tensor is what DeepSpeed's ZeRO-3 or FSDP leave of one that was not gathered:
    empty, or a matrix in one dimension."""
    return 0 in tensor.shape or (len(tensor.shape) < 2 and bool(FACTOR.search(tensor.name)))


def _with_adapter_errors(tensor: LazyTensor, file: Path) -> LazyTensor:
    """Returns `tensor` with a `read` that raises AdapterError."""
    read = tensor.read

    def read_or_raise() -> Tensor:
        try:
            return read()
        except ModelFolderError as error:
            raise _as_adapter_error(error, file) from error

    return replace(tensor, read=read_or_raise)


def _as_adapter_error(error: ModelFolderError, file: Path) -> AdapterError:
    """Returns the error of a weights file as an AdapterError, without the path of the folder,
    which clients must not see."""
    text = error.text
    if text.code in ("weights_torn", "file_unreadable"):
        return adapter_error("adapter_unreadable", reason=text.facts["reason"])
    facts = {name: file.name if fact == file else fact for name, fact in text.facts.items()}
    return adapter_error(text.code, **facts)
