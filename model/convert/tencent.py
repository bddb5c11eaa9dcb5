"""TencentPretrain's LLaMA checkpoints, as Linly publishes them.

One `.bin` with every weight, no configuration: the sizes are read off the shapes. Its rotary
embedding turns neighbouring numbers, the Hugging Face one turns halves, so the rows of q and k
change places (as with Meta's own checkpoints).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model import tensor_names
from model.convert.conversion import Conversion, config_overrides
from model.diagnostics import folder_error
from model.folders.lazy_tensor import LazyTensor
from model.folders.weights import list_tensors
from model.tensor_names import INPUT_NORM, LINEAR_PATHS, POST_ATTENTION_NORM, layer_path

if TYPE_CHECKING:
    from torch import Tensor

HEAD_DIM = 128  # in every published LLaMA 1 and 2, from 7B to 70B
POSITIONS = 2048
EMBEDDING = "embedding.word.embedding.weight"
HEAD = "target.lm.output_layer.weight"
NAMES = {
    EMBEDDING: tensor_names.EMBEDDING,
    HEAD: tensor_names.HEAD,
    "encoder.layer_norm.weight": tensor_names.FINAL_NORM,
}
LAYER = re.compile(r"^encoder\.transformer\.(\d+)\.(.+)$")
LAYER_NAMES = {
    "self_attn.linear_layers.0.weight": f"{LINEAR_PATHS['q_proj']}.weight",
    "self_attn.linear_layers.1.weight": f"{LINEAR_PATHS['k_proj']}.weight",
    "self_attn.linear_layers.2.weight": f"{LINEAR_PATHS['v_proj']}.weight",
    "self_attn.final_linear.weight": f"{LINEAR_PATHS['o_proj']}.weight",
    "feed_forward.linear_gate.weight": f"{LINEAR_PATHS['gate_proj']}.weight",
    "feed_forward.linear_1.weight": f"{LINEAR_PATHS['up_proj']}.weight",
    "feed_forward.linear_2.weight": f"{LINEAR_PATHS['down_proj']}.weight",
    "layer_norm_1.weight": f"{INPUT_NORM}.weight",
    "layer_norm_2.weight": f"{POST_ATTENTION_NORM}.weight",
}


def open_tencent(source: Path, tokenizer: Path, told: Mapping[str, Any]) -> Conversion:
    """The checkpoint `source` with its SentencePiece model and what a --config tells.

    Raises:
        ModelFolderError: it is no such checkpoint.
    """
    held = {tensor.name: tensor for tensor in list_tensors(source)}
    _check_names(source, held)
    config = _config(held, source, config_overrides(told)) | _special_ids(tokenizer)
    config |= config_overrides(told)
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    tensors = [_converted(tensor, head_dim) for tensor in held.values()]
    rest = partial(_write_tokenizer, tokenizer, config["max_position_embeddings"])
    exact = told.get("vocab_size") != config["vocab_size"]
    return Conversion(config, tensors, rest, (source, tokenizer), exact)


def _check_names(source: Path, held: Mapping[str, LazyTensor]) -> None:
    unknown = [name for name in held if _renamed(name) is None]
    if unknown or EMBEDDING not in held:
        raise folder_error(
            "not_tencent", file=source, what=unknown[0] if unknown else "no embedding"
        )
    layers = {int(found[1]) for found in map(LAYER.match, held) if found}
    expected = {f"encoder.transformer.{n}.{part}" for n in layers for part in LAYER_NAMES}
    expected |= {name for name in NAMES if name != HEAD}  # a tied one is the embedding
    missing = sorted(expected - set(held))
    if missing or layers != set(range(len(layers))):
        what = missing[0] if missing else f"a layer between 0 and {max(layers)}"
        raise folder_error("tensor_missing", count=len(missing) or 1, name=what, folder=source)


def _renamed(name: str) -> str | None:
    found = LAYER.match(name)
    if found is None:
        return NAMES.get(name)
    renamed = LAYER_NAMES.get(found[2])
    return renamed and layer_path(found[1], renamed)


def _converted(tensor: LazyTensor, head_dim: int) -> LazyTensor:
    name = _renamed(tensor.name)
    assert name is not None  # noqa: S101 (looked at when the file was opened)
    renamed = tensor.renamed(name)
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        return renamed.then(partial(unpermute_rope, heads=tensor.shape[0] // head_dim))
    return renamed


def unpermute_rope(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows [heads * head_dim, hidden] of q or k, or of their biases, head by head.

    Rotary pair i of a head stands in rows 2i and 2i + 1, and goes to rows i and i + head_dim / 2.
    """
    pairs = weight.view(heads, len(weight) // heads // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)


def _config(
    held: Mapping[str, LazyTensor], source: Path, told: Mapping[str, Any]
) -> dict[str, Any]:
    vocab, hidden = held[EMBEDDING].shape
    heads = told.get("num_attention_heads") or hidden // HEAD_DIM
    if not heads or hidden % heads or (hidden // heads) % 2:
        raise folder_error("heads_unknown", file=source, hidden=hidden, size=HEAD_DIM)
    first = "encoder.transformer.0."
    keys = held[f"{first}self_attn.linear_layers.1.weight"].shape[0]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": held[f"{first}feed_forward.linear_gate.weight"].shape[0],
        "num_hidden_layers": len({found[1] for found in map(LAYER.match, held) if found}),
        "num_attention_heads": heads,
        "num_key_value_heads": keys // (hidden // heads),
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": HEAD not in held,
        "vocab_size": vocab,
        "dtype": {"F16": "float16", "BF16": "bfloat16"}.get(held[EMBEDDING].dtype, "float32"),
    }


def _special_ids(tokenizer: Path) -> dict[str, int]:
    """As the SentencePiece model has them; LLaMA's are 1 and 2."""
    from model.text.tokenizer import SpmTokenizer

    spm = SpmTokenizer(tokenizer)
    ids = {"bos_token_id": next(iter(spm.prefix_ids), None), "eos_token_id": spm.eos_id}
    return {name: token for name, token in ids.items() if token is not None}


def _write_tokenizer(tokenizer: Path, positions: int, folder: Path) -> None:
    """The SentencePiece model as it is, and what transformers wants to be told about it."""
    from model.text.tokenizer import SpmTokenizer

    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    spm = SpmTokenizer(tokenizer)
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": spm.bos is not None,
        "add_eos_token": False,
        "bos_token": spm.bos,
        "eos_token": spm.eos,
        "unk_token": spm.unk,
        "model_max_length": positions,
        "clean_up_tokenization_spaces": False,
    }
    text = json.dumps({key: value for key, value in config.items() if value is not None}, indent=2)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
