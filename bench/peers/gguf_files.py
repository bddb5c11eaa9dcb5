"""Writes GGUF files for llama.cpp: the base in Q8_0, adapters in float32.

`write_base` takes a LLaMA folder in the Hugging Face layout with a byte-level BPE tokenizer,
`write_adapter` a PEFT LoRA folder. Both raise GgufError for anything else, because a file that is
only nearly right would make the comparison worthless.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.convert.gguf import NAMES, PARTS
from model.folders.model_folder import read_model_folder
from model.folders.weights import list_tensors, read_tensors

Matrix = npt.NDArray[np.float32]

ARCHITECTURE = "llama"
LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)\.weight$")
LORA = re.compile(r"^base_model\.model\.model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight$")
GGUF_NAMES = {name: gguf_name for gguf_name, name in NAMES.items()}
GGUF_PARTS = {part: gguf_part for gguf_part, part in PARTS.items()}
HEADS = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
Q8_VALUES = 32  # that share a scale in Q8_0
# The steps of a tokenizer.json's pre-tokenizer, and llama.cpp's name for them.
PRE_TOKENIZERS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # token types


class GgufError(Exception):
    """The model or the adapter cannot be written as GGUF."""


def write_base(folder: Path, target: Path) -> None:
    """Write the model in `folder` to `target`: matrices in Q8_0, norms in float32."""
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    from gguf.quants import quantize

    config = _config(folder)
    writer = GGUFWriter(target, ARCHITECTURE)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    _add_sizes(writer, config)
    _add_tokenizer(writer, folder, config)
    q8_0 = GGMLQuantizationType.Q8_0
    for name, weight in read_tensors(tensor for _, tensor in read_model_folder(folder).tensors()):
        gguf_name, rows = base_tensor(name, weight.float().numpy(), config)
        if rows.ndim == 1:
            writer.add_tensor(gguf_name, rows)
        elif rows.shape[1] % Q8_VALUES:
            raise GgufError(f"{name} has rows of {rows.shape[1]}, and Q8_0 wants multiples of 32")
        else:
            writer.add_tensor(gguf_name, quantize(rows, q8_0), raw_dtype=q8_0)
    _finish(writer)


def write_adapter(folder: Path, target: Path, base: Path) -> None:
    """Write the LoRA adapter in `folder`, made for the model in `base`, to `target`."""
    from gguf import GGUFWriter

    config, lora = _config(base), _read_json(folder / "adapter_config.json")
    if lora["use_rslora"] or lora["alpha_pattern"] or lora["rank_pattern"]:
        raise GgufError(f"{folder.name}: one alpha and one rank for all layers are needed")
    writer = GGUFWriter(target, ARCHITECTURE)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(lora["lora_alpha"]))
    for name, weight in read_tensors(list_tensors(folder / "adapter_model.safetensors")):
        writer.add_tensor(*lora_tensor(name, weight.float().numpy(), config))
    _finish(writer)


def base_tensor(name: str, weight: Matrix, config: dict[str, Any]) -> tuple[str, Matrix]:
    """A tensor's name in GGUF, and its rows in llama.cpp's order."""
    if name in GGUF_NAMES:
        return GGUF_NAMES[name], weight
    match = LAYER.match(name)
    if match is None or match[2] not in GGUF_PARTS:
        raise GgufError(f"The tensor {name} has no name in GGUF")
    return f"blk.{match[1]}.{GGUF_PARTS[match[2]]}.weight", _ordered(match[2], weight, config)


def lora_tensor(name: str, weight: Matrix, config: dict[str, Any]) -> tuple[str, Matrix]:
    """An A (rank x in) or B (out x rank) of an adapter as llama.cpp names and orders it.

    Only the rows of B belong to heads.
    """
    match = LORA.match(name)
    if match is None or match[2] not in GGUF_PARTS:
        raise GgufError(f"The tensor {name} has no name in GGUF")
    rows = _ordered(match[2], weight, config) if match[3] == "B" else weight
    return f"blk.{match[1]}.{GGUF_PARTS[match[2]]}.weight.lora_{match[3].lower()}", rows


def permute_rope(weight: Matrix, heads: int) -> Matrix:
    """Reorder rows (heads x size, in) from rotated halves to rotated pairs, head by head.

    Hugging Face's rotary embedding pairs row i of a head with row i + size/2; llama.cpp's pairs
    rows 2i and 2i + 1 (llama.cpp, conversion of LlamaForCausalLM, `permute`).
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _ordered(part: str, weight: Matrix, config: dict[str, Any]) -> Matrix:
    return permute_rope(weight, config[HEADS[part]]) if part in HEADS else weight


def _add_sizes(writer: Any, config: dict[str, Any]) -> None:
    rope = config["rope_parameters"]
    if rope["rope_type"] != "default":
        raise GgufError(f"RoPE of the type {rope['rope_type']} is not written")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    tokenizer = _read_json(folder / "tokenizer.json")
    tokens, types = token_list(tokenizer, config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer["pre_tokenizer"]))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)  # the chat template adds it
    writer.add_add_space_prefix(False)
    template = folder / "chat_template.jinja"  # or in tokenizer_config.json, as older tools save it
    if template.is_file():
        writer.add_chat_template(template.read_text(encoding="utf-8"))
    else:
        config_file = _read_json(folder / "tokenizer_config.json")
        writer.add_chat_template(str(config_file["chat_template"]))


def token_list(tokenizer: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """The `size` tokens of a tokenizer.json by id, and GGUF's type of each."""
    tokens, types = [f"[unused{number}]" for number in range(size)], [UNUSED] * size
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]] = added["content"]
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return tokens, types


def _pre_tokenizer(splitter: dict[str, Any]) -> str:
    steps = tuple(step["type"] for step in splitter.get("pretokenizers", [splitter]))
    if steps not in PRE_TOKENIZERS:
        raise GgufError(f"llama.cpp's name for the pre-tokenizer {steps} is not known here")
    return PRE_TOKENIZERS[steps]


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _config(folder: Path) -> dict[str, Any]:
    """A model's config.json with today's names, whichever version of transformers wrote it."""
    from transformers import LlamaConfig

    config: dict[str, Any] = LlamaConfig.from_pretrained(folder).to_dict()
    return config


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
