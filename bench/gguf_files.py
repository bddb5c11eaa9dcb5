"""GGUF files for llama.cpp, out of what we serve: the base in Q8_0, adapters in float32.

`write_base` reads a LLaMA folder in the Hugging Face layout with a byte-level BPE tokenizer;
`write_adapter` a PEFT LoRA folder. Both give up with a `GgufError` on anything else, as a file that
is only nearly right would make the comparison worthless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.folders.model_folder import read_model_folder

Matrix = npt.NDArray[np.float32]

ARCHITECTURE = "llama"
LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)\.weight$")
LORA = re.compile(r"^base_model\.model\.model\.layers\.(\d+)\.(.+)\.lora_([AB])\.weight$")
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
PARTS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Q8_VALUES = 32  # that share a scale in Q8_0
# How a tokenizer.json cuts text before BPE, and llama.cpp's name for that.
CUTS = {("ByteLevel",): "gpt-2", ("Digits", "ByteLevel"): "smollm"}


class GgufError(Exception):
    """This model or adapter cannot be written, in one sentence."""


def write_base(folder: Path, target: Path) -> None:
    """Write the model in `folder` to `target`: matrices in Q8_0, norms in float32."""
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType
    from gguf.quants import quantize

    config = _config(folder)
    writer = GGUFWriter(target, ARCHITECTURE)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    _add_sizes(writer, config)
    _add_tokenizer(writer, folder, config)
    eight_bit = GGMLQuantizationType.Q8_0
    for name, weight in _weights(folder):
        named, rows = base_tensor(name, weight, config)
        if rows.ndim == 1:
            writer.add_tensor(named, rows)
        elif rows.shape[1] % Q8_VALUES:
            raise GgufError(f"{name} has rows of {rows.shape[1]}, and Q8_0 wants multiples of 32")
        else:
            writer.add_tensor(named, quantize(rows, eight_bit), raw_dtype=eight_bit)
    _finish(writer)


def write_adapter(folder: Path, target: Path, base: Path) -> None:
    """Write the LoRA adapter in `folder`, made for the model in `base`, to `target`."""
    from gguf import GGUFWriter

    config, lora = _config(base), _read(folder / "adapter_config.json")
    if lora["use_rslora"] or lora["alpha_pattern"] or lora["rank_pattern"]:
        raise GgufError(f"{folder.name}: one alpha and one rank for all layers are needed")
    writer = GGUFWriter(target, ARCHITECTURE)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(lora["lora_alpha"]))
    for name, weight in _tensors(folder / "adapter_model.safetensors"):
        writer.add_tensor(*lora_tensor(name, weight, config))
    _finish(writer)


def base_tensor(name: str, weight: Matrix, config: dict[str, Any]) -> tuple[str, Matrix]:
    """A tensor's name in GGUF, and its rows in llama.cpp's order."""
    if name in WHOLE:
        return WHOLE[name], weight
    found = LAYER.match(name)
    if found is None or found[2] not in PARTS:
        raise GgufError(f"The tensor {name} has no name in GGUF")
    return f"blk.{found[1]}.{PARTS[found[2]]}.weight", _ordered(found[2], weight, config)


def lora_tensor(name: str, weight: Matrix, config: dict[str, Any]) -> tuple[str, Matrix]:
    """An A (rank x in) or B (out x rank) of an adapter as llama.cpp names and orders it.

    Only B has rows that belong to heads.
    """
    found = LORA.match(name)
    if found is None or found[2] not in PARTS:
        raise GgufError(f"The tensor {name} has no name in GGUF")
    rows = _ordered(found[2], weight, config) if found[3] == "B" else weight
    return f"blk.{found[1]}.{PARTS[found[2]]}.weight.lora_{found[3].lower()}", rows


def interleaved(weight: Matrix, heads: int) -> Matrix:
    """Rows (heads x size, in) from rotated halves to rotated pairs, head by head.

    Hugging Face's rotary embedding pairs row i of a head with row i + size/2; llama.cpp's pairs
    rows 2i and 2i + 1 (llama.cpp, conversion of LlamaForCausalLM, `permute`).
    """
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def _ordered(part: str, weight: Matrix, config: dict[str, Any]) -> Matrix:
    heads = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}
    return interleaved(weight, config[heads[part]]) if part in heads else weight


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
    tokenizer = _read(folder / "tokenizer.json")
    tokens, types = pieces(tokenizer, config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_cut(tokenizer["pre_tokenizer"]))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)  # the chat template writes it
    writer.add_add_space_prefix(False)
    writer.add_chat_template(_chat_template(folder))


def _chat_template(folder: Path) -> str:
    """In a file of its own, or in the tokenizer's settings as it used to be."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return str(_read(folder / "tokenizer_config.json")["chat_template"])


def pieces(tokenizer: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """The tokenizer's `size` tokens by id, and GGUF's type of each (1 normal, 3 control)."""
    tokens = [f"[unused{number}]" for number in range(size)]
    types = [5] * size  # unused
    for token, number in tokenizer["model"]["vocab"].items():
        tokens[number], types[number] = token, 1
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], 3 if added["special"] else 4
    return tokens, types


def _cut(splitter: dict[str, Any]) -> str:
    steps = splitter.get("pretokenizers", [splitter])
    kinds = tuple(step["type"] for step in steps)
    if kinds not in CUTS:
        raise GgufError(f"llama.cpp's name for the pre-tokenizer {kinds} is not known here")
    return CUTS[kinds]


def _weights(folder: Path) -> Iterator[tuple[str, Matrix]]:
    """Every tensor of a model folder, whatever the number of its files, as float32."""
    for file in read_model_folder(folder).weight_files:
        yield from _tensors(file)


def _tensors(path: Path) -> Iterator[tuple[str, Matrix]]:
    """Every tensor of a safetensors file, as float32."""
    import torch
    from safetensors import safe_open

    if not path.is_file() or path.suffix != ".safetensors":
        raise GgufError(f"{path} is no safetensors file")
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (not a dict)
            yield name, file.get_tensor(name).to(torch.float32).numpy()


def _finish(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _config(folder: Path) -> dict[str, Any]:
    """A model's config.json in today's words, whichever transformers has written it."""
    from transformers import LlamaConfig

    config: dict[str, Any] = LlamaConfig.from_pretrained(folder).to_dict()
    return config


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
