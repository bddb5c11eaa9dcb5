"""TencentPretrain's LLaMA checkpoints, as Linly publishes them, to the Hugging Face layout.

One `.bin` with every weight, no configuration: the sizes are read off the shapes. Its rotary
embedding turns neighbouring numbers, the Hugging Face one turns halves, so the rows of q and k
change places (as with Meta's own checkpoints).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.types import ModelFolderError

HEAD_DIM = 128  # in every published LLaMA 1 and 2, from 7B to 70B
POSITIONS = 2048
SHARD_BYTES = 1_000_000_000
NAMES = {
    "embedding.word.embedding.weight": "model.embed_tokens.weight",
    "target.lm.output_layer.weight": "lm_head.weight",
    "encoder.layer_norm.weight": "model.norm.weight",
}
LAYER = re.compile(r"^encoder\.transformer\.(\d+)\.(.+)$")
LAYER_NAMES = {
    "self_attn.linear_layers.0.weight": "self_attn.q_proj.weight",
    "self_attn.linear_layers.1.weight": "self_attn.k_proj.weight",
    "self_attn.linear_layers.2.weight": "self_attn.v_proj.weight",
    "self_attn.final_linear.weight": "self_attn.o_proj.weight",
    "feed_forward.linear_gate.weight": "mlp.gate_proj.weight",
    "feed_forward.linear_1.weight": "mlp.up_proj.weight",
    "feed_forward.linear_2.weight": "mlp.down_proj.weight",
    "layer_norm_1.weight": "input_layernorm.weight",
    "layer_norm_2.weight": "post_attention_layernorm.weight",
}


def write_folder(source: Path, folder: Path, tokenizer: Path, heads: int | None = None) -> None:
    """Write the checkpoint `source` and its SentencePiece model into the empty folder `folder`.

    `heads` is only needed where the head size is not 128.

    Raises:
        ModelFolderError: it is no such checkpoint.
    """
    weights = _open(source)
    config = _config(weights, source, heads)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    _write_shards(_renamed(weights, config["num_attention_heads"]), len(weights), folder)


def _open(source: Path) -> dict[str, Tensor]:
    """The checkpoint's tensors, mapped into memory rather than read."""
    try:
        weights = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch and pickle raise whatever their parsers do
        raise ModelFolderError(
            f"{source} is no PyTorch checkpoint: {str(error).splitlines()[0]}",
            "Download the file again.",
        ) from error
    unknown = [name for name in weights if _renamed_key(name) is None]
    if unknown or "embedding.word.embedding.weight" not in weights:
        what = unknown[0] if unknown else "no embedding"
        raise ModelFolderError(
            f"{source} is no TencentPretrain LLaMA checkpoint (it has {what})",
            "Pass the .bin that Linly publishes, or a GGUF file.",
        )
    return dict(weights)


def _renamed_key(name: str) -> str | None:
    match = LAYER.match(name)
    if match is None:
        return NAMES.get(name)
    renamed = LAYER_NAMES.get(match.group(2))
    return renamed and f"model.layers.{match.group(1)}.{renamed}"


def _config(weights: Mapping[str, Tensor], source: Path, heads: int | None) -> dict[str, Any]:
    vocab, hidden = weights["embedding.word.embedding.weight"].shape
    if heads is None and hidden % HEAD_DIM:
        raise ModelFolderError(
            f"{source} has {hidden} hidden units, no multiple of {HEAD_DIM}",
            "Pass --heads with its number of attention heads.",
        )
    layers = {int(match.group(1)) for match in map(LAYER.match, weights) if match}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": len(weights["encoder.transformer.0.feed_forward.linear_gate.weight"]),
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads or hidden // HEAD_DIM,
        "num_key_value_heads": heads or hidden // HEAD_DIM,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": "target.lm.output_layer.weight" not in weights,
        "vocab_size": vocab,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "dtype": str(weights["embedding.word.embedding.weight"].dtype).removeprefix("torch."),
    }


def _renamed(weights: Mapping[str, Tensor], heads: int) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights.items():
        key = _renamed_key(name)
        if key is None:
            raise ModelFolderError(f"There is no place for {name}")
        rotated = key.endswith(("q_proj.weight", "k_proj.weight"))
        yield key, halves_from_pairs(tensor, heads) if rotated else tensor


def halves_from_pairs(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows [heads * head_dim, hidden] of q or k, head by head.

    Rotary pair i of a head stands in rows 2i and 2i + 1, and goes to rows i and i + head_dim / 2.
    """
    rows, hidden = weight.shape
    pairs = weight.view(heads, rows // heads // 2, 2, hidden)
    return pairs.transpose(1, 2).reshape(rows, hidden)


def _write_shards(tensors: Iterator[tuple[str, Tensor]], total: int, folder: Path) -> None:
    """safetensors files of about SHARD_BYTES with their index, and a progress bar."""
    from safetensors.torch import save_file
    from tqdm import tqdm

    weight_map: dict[str, str] = {}
    shard: dict[str, Tensor] = {}
    written = 0

    def flush() -> None:
        name = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
        shard.clear()

    for name, tensor in tqdm(tensors, total=total, desc="Converting", unit="tensor"):
        if shard and sum(t.nbytes for t in shard.values()) + tensor.nbytes > SHARD_BYTES:
            flush()
        shard[name] = tensor.clone(memory_format=torch.contiguous_format)
        written += tensor.nbytes
    flush()
    index = {"metadata": {"total_size": written}, "weight_map": weight_map}
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
