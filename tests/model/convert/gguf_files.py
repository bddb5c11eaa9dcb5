"""Writes small GGUF files of random models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sentencepiece import sentencepiece_model_pb2 as proto

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 64, 96, 2, 4, 2

Vocabulary = Callable[[Any], int]


def tensors(rows: int, tied: bool = False) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    rng = np.random.default_rng(5)

    def random_array(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    size = HIDDEN // HEADS
    weights = {
        "token_embd.weight": random_array(rows, HIDDEN),
        "output_norm.weight": 1 + random_array(HIDDEN),
    }
    if not tied:
        weights["output.weight"] = random_array(rows, HIDDEN)
    for n in range(LAYERS):
        p = f"blk.{n}."
        weights |= {
            f"{p}attn_q.weight": random_array(HIDDEN, HIDDEN),
            f"{p}attn_k.weight": random_array(KV_HEADS * size, HIDDEN),
            f"{p}attn_v.weight": random_array(KV_HEADS * size, HIDDEN),
            f"{p}attn_output.weight": random_array(HIDDEN, HIDDEN),
            f"{p}ffn_gate.weight": random_array(INTERMEDIATE, HIDDEN),
            f"{p}ffn_up.weight": random_array(INTERMEDIATE, HIDDEN),
            f"{p}ffn_down.weight": random_array(HIDDEN, INTERMEDIATE),
            f"{p}attn_norm.weight": 1 + random_array(HIDDEN),
            f"{p}ffn_norm.weight": 1 + random_array(HIDDEN),
        }
    return weights


def write(
    file: Path, vocabulary: Path | Vocabulary, kind: str = "F32", extra: Any = None,
    tied: bool = False, architecture: str = "llama",
) -> Path:  # fmt: skip
    """Writes a random model.

    Args:
        vocabulary: a SentencePiece model, or a function that adds one to the writer and returns the
            number of its tokens.
        extra: can add fields to the writer.
    """
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    quant_type = GGMLQuantizationType[kind]
    writer = GGUFWriter(file, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    rows = _add_spm(writer, vocabulary) if isinstance(vocabulary, Path) else vocabulary(writer)
    writer.add_chat_template("{{ messages }}")
    for name, weight in tensors(rows, tied).items():
        if weight.ndim == 1 or kind == "F32":
            writer.add_tensor(name, weight)
        else:
            writer.add_tensor(name, quantize(weight, quant_type), raw_dtype=quant_type)
    if extra:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_spm(writer: Any, spm: Path) -> int:
    model = proto.ModelProto.FromString(spm.read_bytes())
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.piece for piece in model.pieces])
    writer.add_token_scores([piece.score for piece in model.pieces])
    writer.add_token_types([piece.type for piece in model.pieces])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
    return len(model.pieces)
