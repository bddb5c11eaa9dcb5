"""Reads GGUF files of the llama architecture.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Quantised tensors become
bfloat16, others keep their dtype. The rows of q and k are permuted, as in Meta's checkpoints. A
SentencePiece vocabulary becomes a tokenizer.model, and a byte-level one a tokenizer.json, so that
the ids stay the same. A split file is read as one, by the name of any of its parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.convert.bpe_file import write_bpe
from model.convert.conversion import Conversion, config_overrides
from model.convert.gguf_parts import check_parts
from model.convert.hf import replace_tokenizer
from model.convert.spm_file import write_spm
from model.convert.tencent import unpermute_rope
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.folders.lazy_tensor import LazyTensor, read_bytes
from model.tensor_names import (
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    INPUT_NORM,
    LINEAR_PATHS,
    POST_ATTENTION_NORM,
    layer_path,
)
from model.translations import LocalizedText

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {
    "token_embd.weight": EMBEDDING,
    "output_norm.weight": FINAL_NORM,
    "output.weight": HEAD,
}
LAYER = re.compile(r"^blk\.(\d+)\.(\w+)\.(weight|bias)$")
PARTS = {
    "attn_q": LINEAR_PATHS["q_proj"],
    "attn_k": LINEAR_PATHS["k_proj"],
    "attn_v": LINEAR_PATHS["v_proj"],
    "attn_output": LINEAR_PATHS["o_proj"],
    "ffn_gate": LINEAR_PATHS["gate_proj"],
    "ffn_up": LINEAR_PATHS["up_proj"],
    "ffn_down": LINEAR_PATHS["down_proj"],
    "attn_norm": INPUT_NORM,
    "ffn_norm": POST_ATTENTION_NORM,
}
LORA_TENSOR = re.compile(r"\.lora_[ab]$")
ROPE_FACTORS = "rope_freqs.weight"  # by which Llama 3.1 divides its frequencies
LLAMA3 = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
UNQUANTIZED = ("F32", "F16", "BF16")  # types that are kept
# What Python raises for metadata with values of the wrong type or size.
METADATA_ERRORS = (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError)
END_TOKENS = ("eos", "eot", "eom")


@dataclass(frozen=True)
class Metadata:
    """A GGUF file's fields by name."""

    reader: Any
    file: Path

    def get(self, name: str, default: Any = None) -> Any:
        field = self.reader.get_field(name)
        return default if field is None else field.contents()

    def llama(self, name: str, default: Any = None) -> Any:
        """A setting of the architecture.

        Raises:
            ModelFolderError: it is missing and has no default.
        """
        value = self.get(f"llama.{name}", default)
        if value is None:
            raise folder_error("gguf_incomplete", file=self.file, field=f"llama.{name}")
        return value


def open_gguf(source: Path, tokenizer: Path | None, config_file: Mapping[str, Any]) -> Conversion:
    """Opens the model in the GGUF file `source`, with the settings of a --config file.

    Raises:
        ModelFolderError: it is torn, incomplete, no model, or of another architecture.
    """
    names = check_parts(source.name, {path.name for path in source.parent.glob("*.gguf")})
    parts = [_open_file(source.with_name(name)) for name in names]
    metadata = parts[0]
    try:
        _check_split(parts)
        _check_model(metadata)
        tensors = {tensor.name: tensor for part in parts for tensor in part.reader.tensors}
        config = _config(metadata, tensors) | config_overrides(config_file)
        lazy = [
            _lazy(part.file, tensor, config["head_dim"])
            for part in parts
            for tensor in part.reader.tensors
            if tensor.name != ROPE_FACTORS
        ]
    except METADATA_ERRORS as error:
        raise _metadata_error(source, error) from error
    write_extra_files = partial(_write_extra_files, metadata, tokenizer)
    sources = (*(part.file for part in parts), *((tokenizer,) if tokenizer else ()))
    return Conversion(config, lazy, write_extra_files, sources)


def _open_file(file: Path) -> Metadata:
    from gguf import GGUFReader

    try:
        return Metadata(GGUFReader(file), file)
    except Exception as error:  # its parser can raise any error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise folder_error("weights_torn", file=file, reason=reason) from error


def _check_split(parts: Sequence[Metadata]) -> None:
    """Checks that the files are all parts of one file, in their order.

    Raises:
        ModelFolderError: they are not.
    """
    count = parts[0].get("split.count", 0)
    if len(parts) == 1 and count > 1:
        number = parts[0].get("split.no", 0) + 1
        raise folder_error("gguf_part_renamed", file=parts[0].file, number=number, count=count)
    if len(parts) == 1:
        return
    for number, part in enumerate(parts):
        if (part.get("split.no"), part.get("split.count")) != (number, len(parts)):
            raise folder_error(
                "gguf_part_differs", file=part.file, number=number + 1, count=len(parts)
            )
    total = parts[0].get("split.tensors.count")
    found = len({tensor.name for part in parts for tensor in part.reader.tensors})
    if found != total:
        raise folder_error("gguf_parts_differ", file=parts[0].file, found=found, total=total)


def _check_model(metadata: Metadata) -> None:
    """Checks that the file has a model of the architecture.

    Raises:
        ModelFolderError: it has not.
    """
    kind = metadata.get("general.type", "model")
    names = (tensor.name for tensor in metadata.reader.tensors)
    if kind == "adapter" or metadata.get("adapter.type") or any(map(LORA_TENSOR.search, names)):
        raise folder_error("gguf_adapter", file=metadata.file)
    if kind != "model":
        raise folder_error("gguf_no_model", file=metadata.file, kind=str(kind)[:50])
    architecture = metadata.get("general.architecture")
    if architecture != "llama" or metadata.get("llama.expert_count"):
        what = architecture if architecture != "llama" else LocalizedText("mixture_of_experts")
        raise folder_error("not_llama", folder=metadata.file, what=what)


def _metadata_error(source: Path, error: Exception) -> ModelFolderError:
    reason = f"its metadata make no sense ({type(error).__name__}: {error})"
    return folder_error("weights_torn", file=source, reason=reason)


def _config(metadata: Metadata, tensors: Mapping[str, Any]) -> dict[str, Any]:
    if "token_embd.weight" not in tensors:
        raise folder_error(
            "tensor_missing", count=1, name="token_embd.weight", folder=metadata.file
        )
    hidden, vocab = (int(size) for size in tensors["token_embd.weight"].shape)
    heads = metadata.llama("attention.head_count")
    types = {tensor.tensor_type.name for tensor in tensors.values() if len(tensor.shape) > 1}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": metadata.llama("feed_forward_length"),
        "num_hidden_layers": metadata.llama("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.llama("attention.head_count_kv", heads),
        "head_dim": metadata.llama("rope.dimension_count", _head_size(metadata, hidden // heads)),
        "max_position_embeddings": metadata.llama("context_length"),
        "rms_norm_eps": metadata.llama("attention.layer_norm_rms_epsilon"),
        "rope_theta": metadata.llama("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in tensors,
        "attention_bias": any(name.endswith("attn_q.bias") for name in tensors),
        "dtype": {"F16": "float16", "F32": "float32"}.get(min(types), "bfloat16")
        if len(types) == 1
        else "bfloat16",
    }
    for kind in ("bos", "eos"):
        token = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        config |= {} if token is None else {f"{kind}_token_id": token}
    return config | _rope_scaling(metadata, tensors, config)


def _head_size(metadata: Metadata, usual: int) -> int:
    return int(metadata.llama("attention.key_length", usual))


def _rope_scaling(
    metadata: Metadata, tensors: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """The setting `rope_scaling`; empty if positions are not scaled."""
    if ROPE_FACTORS in tensors:
        return {"rope_scaling": _llama3(metadata.file, tensors[ROPE_FACTORS].data, config)}
    old_factor = metadata.get("llama.rope.scale_linear", 1.0)
    if old_factor != 1.0:
        return {"rope_scaling": {"rope_type": "linear", "factor": old_factor}}
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind != "linear":
        raise folder_error("gguf_rope", file=metadata.file, what=kind)
    factor = metadata.llama("rope.scaling.factor")
    return {"rope_scaling": {"rope_type": "linear", "factor": factor}}


def _llama3(file: Path, factors: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Llama 3.1's rope scaling, from the factors by which each frequency is divided.

    GGUF has only these factors. All published models have the same settings but for the largest
    factor, so the settings are computed from it and then checked against all factors.
    """
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    divisors = torch.tensor(factors)
    settings = {**LLAMA3, "factor": round(float(divisors.max()), 3)}
    scaled_config = LlamaConfig(**{**config, "rope_scaling": settings})
    size = config["head_dim"]
    unscaled = config["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    expected = LlamaRotaryEmbedding(scaled_config).inv_freq
    if not (unscaled / divisors).allclose(expected, rtol=1e-3):
        raise folder_error("gguf_rope", file=file, what=LocalizedText("own_rope_factors"))
    return settings


def _renamed(source: Path, name: str) -> str:
    """The tensor's name in the Hugging Face layout."""
    match = LAYER.match(name)
    if match is None or match[2] not in PARTS:
        if name not in NAMES:
            raise folder_error("tensor_unknown", folder=source, name=name)
        return NAMES[name]
    return f"{layer_path(match[1], PARTS[match[2]])}.{match[3]}"


def _lazy(source: Path, tensor: Any, head_dim: int) -> LazyTensor:
    """One of the reader's tensors, whose shapes begin with the last axis."""
    kind = tensor.tensor_type
    shape = tuple(int(size) for size in reversed(tensor.shape))
    read = partial(_dequantized, source, int(tensor.data_offset), int(tensor.n_bytes), shape, kind)
    name = _renamed(source, tensor.name)
    dtype = kind.name if kind.name in UNQUANTIZED else "BF16"
    lazy = LazyTensor(name, dtype, shape, read)
    if re.search(r"\.[qk]_proj\.", name):
        return lazy.then(partial(unpermute_rope, heads=shape[0] // head_dim))
    return lazy


def _dequantized(
    source: Path, offset: int, nbytes: int, shape: tuple[int, ...], kind: Any
) -> Tensor:
    import numpy as np
    import torch
    from gguf.quants import dequantize, quant_shape_to_byte_shape

    raw = read_bytes(source, offset, nbytes)
    if kind.name in UNQUANTIZED:
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind.name]
        return raw.view(dtype).view(shape)
    try:
        values = dequantize(raw.numpy().reshape(quant_shape_to_byte_shape(shape, kind)), kind)
    except NotImplementedError as error:
        raise folder_error("gguf_type", file=source, kind=kind.name) from error
    return torch.from_numpy(np.ascontiguousarray(values)).view(shape).to(torch.bfloat16)


def _write_extra_files(metadata: Metadata, tokenizer: Path | None, folder: Path) -> None:
    try:
        _write_tokenizer(metadata, tokenizer, folder)
        _write_chat_files(metadata, folder)
    except METADATA_ERRORS as error:
        raise _metadata_error(metadata.file, error) from error


def _write_tokenizer(metadata: Metadata, tokenizer: Path | None, folder: Path) -> None:
    """Writes the tokenizer in the way of its kind.

    Raises:
        ModelFolderError: it is of a kind that is not supported, or torn.
    """
    kind = metadata.get("tokenizer.ggml.model")
    if tokenizer is not None:
        replace_tokenizer(tokenizer, folder)
    elif kind == "llama":
        write_spm(metadata.get, folder)
    elif kind == "gpt2":
        _write_bpe(metadata, folder)
    else:
        raise folder_error("gguf_tokenizer", file=metadata.file, kind=str(kind)[:50])


def _write_bpe(metadata: Metadata, folder: Path) -> None:
    try:
        write_bpe(metadata.get, metadata.file, folder)
    except (ModelFolderError, *METADATA_ERRORS):
        raise
    except Exception as error:  # as the tokenizers library raises for a merge without its token
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise folder_error("tokenizer_unreadable", file=metadata.file, reason=reason) from error


def _write_chat_files(metadata: Metadata, folder: Path) -> None:
    """Writes the chat template, and the ids of the tokens that end a reply."""
    template = metadata.get("tokenizer.chat_template")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    ids = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in END_TOKENS]
    ends = list(dict.fromkeys(token for token in ids if token is not None))
    if ends:
        text = json.dumps({"eos_token_id": ends if len(ends) > 1 else ends[0]}, indent=2)
        (folder / "generation_config.json").write_text(text + "\n", encoding="utf-8")
