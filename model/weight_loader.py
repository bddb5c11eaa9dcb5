"""Reads a model folder's weights into layers.

Tensors are read one by one and quantised at once: the complete model is never in memory in 16 bits.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.diagnostics import folder_error
from model.errors import SettingsError
from model.folders.model_folder import IGNORED, ModelFolder
from model.folders.weights import read_tensors
from model.layers.decoder_layer import DecoderLayer
from model.layers.linear import Linear
from model.layers.llama import Llama, LlamaShape
from model.tensor_names import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    LINEAR_PATHS,
    POST_ATTENTION_NORM,
    layer_path,
)
from model.types import Progress
from model.weight_cache import WeightCache

log = logging.getLogger(__name__)
Slot = Callable[[Tensor], None]
MAX_ROPE_BYTES = 4 << 30  # of the rotary table: a million positions of heads of 128
ORIGINAL_POSITIONS = "original_max_position_embeddings"
ROPE_TABLE_COPIES = 8  # in float32, while the table is made
# Rope scalings whose frequencies change where a chat becomes longer than the original training: the
# name of that length. Up to it, they are fixed.
ORIGINAL_LENGTH = {"dynamic": "max_position_embeddings", "longrope": ORIGINAL_POSITIONS}


def resolve_device(device: str, quantization: str) -> str:
    """Turns `auto` into "cuda" where torch sees a GPU, and else into "cpu".

    Raises:
        SettingsError: CUDA is requested, or needed by 4-bit, and absent.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise SettingsError("no_cuda_gpu")
    resolved = "cuda" if has_cuda and device != "cpu" else "cpu"
    if quantization == "4bit" and resolved == "cpu":
        raise SettingsError("four_bit_needs_cuda")
    return resolved


def load_model(
    folder: ModelFolder,
    *,
    quantization: str,
    device: str,
    context_length: int | None,
    progress: Progress,
    cache: WeightCache | None = None,
) -> Llama:
    """Makes the model of `folder` and fills it, from `cache` if that has these weights.

    `progress` gets the share of weight bytes that have been read, 0 to 1. A `context_length` of
    None means the context that the model was trained for.

    Raises:
        ModelFolderError: weights are missing, torn or of the wrong shape.
    """
    model = _empty_model(folder, quantization, device, context_length)
    if cache and cache.load(model, progress):
        return model
    _fill_from(folder, model, progress)
    if cache:
        cache.save_later(model)
    return model


def _fill_from(folder: ModelFolder, model: Llama, progress: Progress) -> None:
    slots = weight_slots(model)
    total, bytes_read = folder.nbytes, 0
    for name, tensor in read_tensors(tensor for _, tensor in folder.tensors()):
        slot = slots.pop(name, None)
        if slot is None and not name.endswith(IGNORED) and name != HEAD:
            raise folder_error("tensor_unknown", folder=folder.path, name=name)
        if slot is not None:
            _fill(slot, name, tensor, folder)
        bytes_read += tensor.nbytes
        progress(min(bytes_read / total, 1.0))
    missing = [name for name in slots if not name.endswith(".bias")]
    if missing:
        raise folder_error(
            "tensor_missing", count=len(missing), name=missing[0], folder=folder.path
        )


def _empty_model(
    folder: ModelFolder, quantization: str, device: str, context_length: int | None
) -> Llama:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = check_llama_config(folder.path, folder.config)
    limit = max_positions(config)
    if context_length and limit is not None and context_length > limit:
        kind = config.rope_parameters["rope_type"]
        raise folder_error("rope_length", kind=kind, requested=context_length, length=limit)
    rope = LlamaRotaryEmbedding(config)
    return Llama(
        _shape(config, folder.tied_head),
        dtype=_dtype(config, device),
        device=device,
        quantization=quantization,
        inv_freq=rope.inv_freq,
        rope_scaling=float(rope.attention_scaling),
        context_length=context_length or _served_positions(config),
    )


def _served_positions(config: Any) -> int:
    """The context that the model was trained for, or as many positions as MAX_ROPE_BYTES allow."""
    trained: int = max_positions(config) or config.max_position_embeddings
    limit = MAX_ROPE_BYTES // (ROPE_TABLE_COPIES * 4 * config.head_dim)
    if trained > limit:
        log.warning(
            "The model has %d positions, the engine serves %d: see --context_length", trained, limit
        )
    return min(trained, limit)


def max_positions(config: Any) -> int | None:
    """The positions up to which the frequencies of `config`, a LlamaConfig, are fixed; None if they
    are for all. transformers computes others for longer chats, and the engine does not."""
    name = ORIGINAL_LENGTH.get(config.rope_parameters["rope_type"])
    if name is None:
        return None
    return int(config.rope_parameters.get(name) or config.max_position_embeddings)


def check_llama_config(folder: Path, content: Mapping[str, Any]) -> Any:
    """Returns transformers' LlamaConfig, which supports all older names of the rope settings.

    Args:
        folder: the folder of the config.json, for messages.
        content: the content of the config.json.

    Raises:
        ModelFolderError: a setting is wrong, or needs a feature that is not supported.
    """
    from transformers import LlamaConfig

    try:
        config = LlamaConfig(**{**content, "model_type": "llama"})
        for name in ("max_position_embeddings", "rms_norm_eps"):
            if not 0 < getattr(config, name) < math.inf:
                raise ValueError(f"{name} is {getattr(config, name)!r}")
        theta = config.rope_parameters["rope_theta"]
        if not 0 < theta < math.inf:
            raise ValueError(f"rope_theta is {theta!r}")
    except Exception as error:  # its validation raises a type of its own per field
        reason = str(error).splitlines()[-1].strip()
        raise folder_error("config_unsound", file=folder / "config.json", reason=reason) from error
    if config.hidden_act != "silu":
        raise folder_error("activation_unknown", kind=config.hidden_act)
    _check_rope(config)
    return config


def _check_rope(config: Any) -> None:
    """Checks that transformers has frequencies for the rope scaling, one for each pair of numbers.

    Raises:
        ModelFolderError: it does not.
    """
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope_type, pairs = config.rope_parameters["rope_type"], config.head_dim // 2
    for name in ("short_factor", "long_factor"):
        factors = config.rope_parameters.get(name)
        if rope_type == "longrope" and not (isinstance(factors, list) and len(factors) == pairs):
            found = len(factors) if isinstance(factors, list) else 0
            raise folder_error("rope_table", name=name, found=found, pairs=pairs)
    try:
        original = max_positions(config)
        rope = LlamaRotaryEmbedding(config)
        sound = bool(rope.inv_freq.isfinite().all()) and math.isfinite(rope.attention_scaling)
    except Exception as error:  # its formulas may fail in any way
        raise folder_error("rope_unknown", kind=str(rope_type)[:50]) from error
    if len(rope.inv_freq) != pairs:
        raise folder_error("rope_table", name=rope_type, found=len(rope.inv_freq), pairs=pairs)
    if not sound or not (original is None or original > 0):
        raise folder_error("rope_unknown", kind=rope_type)


def _shape(config: Any, tied_head: bool) -> LlamaShape:
    return LlamaShape(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        tied_head=tied_head,
    )


def _dtype(config: Any, device: str) -> torch.dtype:
    """The dtype of the activations: float32 on the CPU, the checkpoint's 16-bit dtype on CUDA."""
    if device == "cpu":
        return torch.float32
    return config.dtype if config.dtype in (torch.float16, torch.bfloat16) else torch.float16


def _fill(slot: Slot, name: str, tensor: Tensor, folder: ModelFolder) -> None:
    try:
        slot(tensor)
    except (RuntimeError, IndexError) as error:
        shape = list(tensor.shape)
        raise folder_error("tensor_shape", name=name, folder=folder.path, shape=shape) from error


def weight_slots(model: Llama) -> dict[str, Slot]:
    """The function that stores a tensor in `model`, by the tensor's name in a checkpoint."""
    slots: dict[str, Slot] = {
        EMBEDDING: _rows(model.embed_tokens, 0, model.shape.vocab_size),
        FINAL_NORM: _vector(model, "norm", model),
    }
    if not model.shape.tied_head:
        slots[HEAD] = _rows(model.lm_head, 0, model.shape.vocab_size)
    for layer in model.layers:
        slots.update(_layer_slots(layer, model))
    return slots


def _layer_slots(layer: DecoderLayer, model: Llama) -> dict[str, Slot]:
    norms = {INPUT_NORM: "input_norm", POST_ATTENTION_NORM: "post_norm"}
    slots = {
        f"{layer_path(layer.index, name)}.weight": _vector(layer, attribute, model)
        for name, attribute in norms.items()
    }
    for fused in layer.fused_linears.values():
        for module, start, stop in fused.parts:
            path = layer_path(layer.index, LINEAR_PATHS[module])
            slots[f"{path}.weight"] = _rows(fused.linear, start, stop)
            slots[f"{path}.bias"] = _bias(fused.linear, start, stop)
    return slots


def _rows(linear: Linear, start: int, stop: int) -> Slot:
    def put(tensor: Tensor) -> None:
        _require(tensor, (stop - start, linear.in_features))
        linear.put(start, tensor)

    return put


def _bias(linear: Linear, start: int, stop: int) -> Slot:
    def put(tensor: Tensor) -> None:
        _require(tensor, (stop - start,))
        linear.put_bias(start, tensor)

    return put


def _vector(owner: Llama | DecoderLayer, attribute: str, model: Llama) -> Slot:
    def put(tensor: Tensor) -> None:
        _require(tensor, (model.shape.hidden_size,))
        # A copy: a tensor of an old pickle would keep the complete file in memory.
        setattr(owner, attribute, tensor.to(model.device, model.dtype, copy=True))

    return put


def _require(tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise RuntimeError(f"expected {shape}, got {tuple(tensor.shape)}")
