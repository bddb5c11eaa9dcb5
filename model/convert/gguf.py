"""GGUF files of the llama architecture (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Quantised tensors become bfloat16, others keep their type. The rows of q and k change places as in
Meta's checkpoints. SentencePiece vocabularies become a tokenizer.model again, so that the ids are
the source's; byte-level BPE goes through transformers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.convert.conversion import Conversion, config_overrides
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
ROPE_FACTORS = "rope_freqs.weight"  # what Llama 3.1 divides its frequencies by
LLAMA3 = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
PLAIN = {"F32": "F32", "F16": "F16", "BF16": "BF16"}  # types that stay as they are
# What Python says to metadata that are no metadata.
NONSENSE = (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError)
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
        """One of the architecture's sizes.

        Raises:
            ModelFolderError: it is missing and has no default.
        """
        value = self.get(f"llama.{name}", default)
        if value is None:
            raise folder_error("gguf_incomplete", file=self.file, field=f"llama.{name}")
        return value


def open_gguf(source: Path, tokenizer: Path | None, told: Mapping[str, Any]) -> Conversion:
    """The model in the GGUF file `source`, with what a --config tells.

    Raises:
        ModelFolderError: it is torn, or of another architecture.
    """
    from gguf import GGUFReader

    try:
        metadata = Metadata(GGUFReader(source), source)
        architecture = metadata.get("general.architecture")
    except Exception as error:  # its parser raises whatever it runs into
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise folder_error("weights_torn", file=source, said=said) from error
    if architecture != "llama" or metadata.get("llama.expert_count"):
        what = architecture if architecture != "llama" else LocalizedText("mixture_of_experts")
        raise folder_error("not_llama", folder=source, what=what)
    held = {tensor.name: tensor for tensor in metadata.reader.tensors}
    try:
        config = _config(metadata, held) | config_overrides(told)
        size = config["head_dim"]
        tensors = [_lazy(source, t, size) for t in held.values() if t.name != ROPE_FACTORS]
    except NONSENSE as error:
        raise _nonsense(source, error) from error
    rest = partial(_write_rest, metadata, tokenizer)
    return Conversion(config, tensors, rest, (source, *((tokenizer,) if tokenizer else ())))


def _nonsense(source: Path, error: Exception) -> ModelFolderError:
    said = f"its metadata make no sense ({type(error).__name__}: {error})"
    return folder_error("weights_torn", file=source, said=said)


def _config(metadata: Metadata, held: Mapping[str, Any]) -> dict[str, Any]:
    if "token_embd.weight" not in held:
        raise folder_error(
            "tensor_missing", count=1, name="token_embd.weight", folder=metadata.file
        )
    hidden, vocab = (int(size) for size in held["token_embd.weight"].shape)
    heads = metadata.llama("attention.head_count")
    types = {tensor.tensor_type.name for tensor in held.values() if len(tensor.shape) > 1}
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
        "tie_word_embeddings": "output.weight" not in held,
        "attention_bias": any(name.endswith("attn_q.bias") for name in held),
        "dtype": {"F16": "float16", "F32": "float32"}.get(min(types), "bfloat16")
        if len(types) == 1
        else "bfloat16",
    }
    for kind in ("bos", "eos"):
        token = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        config |= {} if token is None else {f"{kind}_token_id": token}
    return config | _rope_scaling(metadata, held, config)


def _head_size(metadata: Metadata, usual: int) -> int:
    return int(metadata.llama("attention.key_length", usual))


def _rope_scaling(
    metadata: Metadata, held: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """How positions are stretched, where they are."""
    if ROPE_FACTORS in held:
        return {"rope_scaling": _llama3(metadata.file, held[ROPE_FACTORS].data, config)}
    older = metadata.get("llama.rope.scale_linear", 1.0)
    if older != 1.0:
        return {"rope_scaling": {"rope_type": "linear", "factor": older}}
    kind = metadata.get("llama.rope.scaling.type", "none")
    if kind == "none":
        return {}
    if kind != "linear":
        raise folder_error("gguf_rope", file=metadata.file, what=kind)
    factor = metadata.llama("rope.scaling.factor")
    return {"rope_scaling": {"rope_type": "linear", "factor": factor}}


def _llama3(file: Path, factors: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Llama 3.1's way: GGUF has its result, what each frequency is divided by. The settings are
    those of all published models but for the largest factor; the result tells whether they are.
    """
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    told = torch.tensor(factors)
    settings = {**LLAMA3, "factor": round(float(told.max()), 3)}
    with_it = LlamaConfig(**{**config, "rope_scaling": settings})
    size = config["head_dim"]
    plain = config["rope_theta"] ** (-torch.arange(0, size, 2) / size)
    if not (plain / told).allclose(LlamaRotaryEmbedding(with_it).inv_freq, rtol=1e-3):
        raise folder_error("gguf_rope", file=file, what=LocalizedText("own_rope_factors"))
    return settings


def _renamed(source: Path, name: str) -> str:
    found = LAYER.match(name)
    if found is None or found[2] not in PARTS:
        if name not in NAMES:
            raise folder_error("tensor_unknown", folder=source, name=name)
        return NAMES[name]
    return f"{layer_path(found[1], PARTS[found[2]])}.{found[3]}"


def _lazy(source: Path, tensor: Any, head_dim: int) -> LazyTensor:
    """One of the reader's tensors; GGUF tells shapes from the last axis on."""
    kind = tensor.tensor_type
    shape = tuple(int(size) for size in reversed(tensor.shape))
    read = partial(_dequantized, source, int(tensor.data_offset), int(tensor.n_bytes), shape, kind)
    name = _renamed(source, tensor.name)
    lazy = LazyTensor(name, PLAIN.get(kind.name, "BF16"), shape, read)
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
    if kind.name in PLAIN:
        dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind.name]
        return raw.view(dtype).view(shape)
    try:
        values = dequantize(raw.numpy().reshape(quant_shape_to_byte_shape(shape, kind)), kind)
    except NotImplementedError as error:
        raise folder_error("gguf_type", file=source, kind=kind.name) from error
    return torch.from_numpy(np.ascontiguousarray(values)).view(shape).to(torch.bfloat16)


def _write_rest(metadata: Metadata, tokenizer: Path | None, folder: Path) -> None:
    try:
        _write_small(metadata, tokenizer, folder)
    except NONSENSE as error:
        raise _nonsense(metadata.file, error) from error


def _write_small(metadata: Metadata, tokenizer: Path | None, folder: Path) -> None:
    if tokenizer is not None:
        replace_tokenizer(tokenizer, folder)
    elif metadata.get("tokenizer.ggml.model") == "llama":
        write_spm(metadata.get, folder)
    else:
        _write_fast(metadata.file, folder)
    template = metadata.get("tokenizer.chat_template")
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    ids = [metadata.get(f"tokenizer.ggml.{kind}_token_id") for kind in END_TOKENS]
    ends = list(dict.fromkeys(token for token in ids if token is not None))
    if ends:
        text = json.dumps({"eos_token_id": ends if len(ends) > 1 else ends[0]}, indent=2)
        (folder / "generation_config.json").write_text(text + "\n", encoding="utf-8")


def _write_fast(source: Path, folder: Path) -> None:
    """A byte-level BPE, which transformers rebuilds from the file's vocabulary and merges."""
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(folder)
    except ModelFolderError:
        raise
    except Exception as error:  # it raises whatever its parsers do
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise folder_error("tokenizer_unreadable", file=source, said=said) from error
