"""Weights to layers: tensor by tensor, quantised as they arrive, never the whole in 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.folder import ModelFolder
from model.layers.linear import Linear
from model.layers.llama import DecoderLayer, Llama, LlamaShape
from model.types import ModelFolderError, Progress, SettingsError
from model.weight_cache import WeightCache

Slot = Callable[[Tensor], None]
# What old checkpoints carry besides weights.
IGNORED = ("rotary_emb.inv_freq", "attention.bias", "masked_bias")
UNSUPPORTED_ROPE = {"dynamic", "longrope"}  # their frequencies depend on the chat's length


def resolve_device(device: str, quantization: str) -> str:
    """`auto` to what is there.

    Raises:
        SettingsError: CUDA is asked for, or needed by 4-bit, and absent.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise SettingsError(
            "--device cuda: torch sees no CUDA GPU",
            "Check the driver with nvidia-smi, or use --device cpu.",
        )
    resolved = "cuda" if has_cuda and device != "cpu" else "cpu"
    if quantization == "4bit" and resolved == "cpu":
        raise SettingsError(
            "--quantization 4bit needs a CUDA GPU (bitsandbytes)",
            "Use --quantization 8bit on the CPU.",
        )
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
    """Make the model of `folder` and fill it, from `cache` if it has these weights already.

    `progress` gets the share of weight bytes that have arrived, 0 to 1. `context_length` None
    means what the model was trained for.

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
    total, arrived = folder.nbytes, 0
    for name, tensor in read_tensors(folder.weight_files):
        slot = slots.pop(name, None)
        if slot is None and not name.endswith(IGNORED) and name != "lm_head.weight":
            raise ModelFolderError(
                f"{folder.path} has a weight that a LLaMA does not have, or has it twice: {name}",
                "Check that config.json belongs to these weights.",
            )
        if slot is not None:
            _fill(slot, name, tensor, folder)
        arrived += tensor.nbytes
        progress(min(arrived / total, 1.0))
    missing = [name for name in slots if not name.endswith(".bias")]
    if missing:
        raise ModelFolderError(
            f"{folder.path} lacks {len(missing)} weights, {missing[0]} first",
            "Download the weight files again.",
        )


def _empty_model(
    folder: ModelFolder, quantization: str, device: str, context_length: int | None
) -> Llama:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = _llama_config(folder)
    rope_type = config.rope_parameters["rope_type"]
    if rope_type in UNSUPPORTED_ROPE:
        raise ModelFolderError(
            f"config.json asks for rope scaling {rope_type!r}, which is not supported",
            "Remove rope_scaling from config.json to serve the model at its original length.",
        )
    rope = LlamaRotaryEmbedding(config)
    return Llama(
        _shape(config),
        dtype=_dtype(config, device),
        device=device,
        quantization=quantization,
        inv_freq=rope.inv_freq,
        rope_scaling=float(rope.attention_scaling),
        context_length=context_length or config.max_position_embeddings,
    )


def _llama_config(folder: ModelFolder) -> Any:
    """transformers' LlamaConfig: it knows every older spelling of the rope settings."""
    from transformers import LlamaConfig

    try:
        config = LlamaConfig(**{**folder.config, "model_type": "llama"})
    except Exception as error:  # its validation raises a type of its own per field
        raise ModelFolderError(
            f"{folder.path / 'config.json'} is not sound: {error}",
            "Copy config.json again from the model's source.",
        ) from error
    if config.hidden_act != "silu":
        raise ModelFolderError(
            f"config.json asks for the activation {config.hidden_act!r}; a LLaMA has silu",
            "Choose a model of the LLaMA family.",
        )
    return config


def _shape(config: Any) -> LlamaShape:
    return LlamaShape(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        tied_head=config.tie_word_embeddings,
    )


def _dtype(config: Any, device: str) -> torch.dtype:
    """Type of the activations: float32 on the CPU, the checkpoint's 16-bit type on CUDA."""
    if device == "cpu":
        return torch.float32
    return config.dtype if config.dtype in (torch.float16, torch.bfloat16) else torch.float16


def _fill(slot: Slot, name: str, tensor: Tensor, folder: ModelFolder) -> None:
    try:
        slot(tensor)
    except (RuntimeError, IndexError) as error:
        raise ModelFolderError(
            f"{name} in {folder.path} has the shape {list(tensor.shape)}, not what config.json "
            "says",
            "Check that config.json belongs to these weights.",
        ) from error


def read_tensors(files: tuple[Path, ...]) -> Iterator[tuple[str, Tensor]]:
    """Every (name, tensor) of safetensors or PyTorch files, one at a time, on the CPU.

    Raises:
        ModelFolderError: a file is torn, or would run code.
    """
    for file in files:
        try:
            yield from _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
        except ModelFolderError:
            raise
        except Exception as error:  # both libraries raise whatever their parsers do
            raise ModelFolderError(
                f"{file} cannot be read: {str(error).splitlines()[0]}", "Download the file again."
            ) from error


def _safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        names = list(opened.keys())
    for name in names:
        # Opened anew for each: what was read through one mapping stays in memory as long as it.
        with safe_open(file, framework="pt") as opened:
            tensor = opened.get_tensor(name)
        yield name, tensor
        del tensor


def _pickled(file: Path) -> Iterator[tuple[str, Tensor]]:
    # weights_only: a pickle may hold any code, and this loader refuses to run it.
    yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()


def weight_slots(model: Llama) -> dict[str, Slot]:
    """Where each checkpoint name goes."""
    slots: dict[str, Slot] = {
        "model.embed_tokens.weight": _rows(model.embed_tokens, 0, model.shape.vocab_size),
        "model.norm.weight": _vector(model, "norm", model),
    }
    if not model.shape.tied_head:
        slots["lm_head.weight"] = _rows(model.lm_head, 0, model.shape.vocab_size)
    for layer in model.layers:
        slots.update(_layer_slots(layer, model))
    return slots


def _layer_slots(layer: DecoderLayer, model: Llama) -> dict[str, Slot]:
    prefix = f"model.layers.{layer.index}."
    slots = {
        f"{prefix}input_layernorm.weight": _vector(layer, "input_norm", model),
        f"{prefix}post_attention_layernorm.weight": _vector(layer, "post_norm", model),
    }
    packed = {"self_attn": (layer.qkv, layer.o), "mlp": (layer.gate_up, layer.down)}
    for block, linears in packed.items():
        for linear in linears:
            for name, start, stop in linear.parts:
                key = f"{prefix}{block}.{name}"
                slots[f"{key}.weight"] = _rows(linear.linear, start, stop)
                slots[f"{key}.bias"] = _bias(linear.linear, start, stop)
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


def _vector(owner: Llama | DecoderLayer, name: str, model: Llama) -> Slot:
    def put(tensor: Tensor) -> None:
        _require(tensor, (model.shape.hidden_size,))
        # A copy: a view would keep the whole file mapped.
        setattr(owner, name, tensor.to(model.device, model.dtype, copy=True))

    return put


def _require(tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise RuntimeError(f"expected {shape}, got {tuple(tensor.shape)}")
