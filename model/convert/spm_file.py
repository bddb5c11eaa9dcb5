"""Writes a SentencePiece model with a GGUF file's vocabulary, so that text gets the same ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Get = Callable[..., Any]  # returns a field's value by its name, or the default

GGML = "tokenizer.ggml."
NORMAL = 1  # a token's type, in GGUF as in SentencePiece


def write_spm(get: Get, folder: Path) -> None:
    """Writes tokenizer.model and tokenizer_config.json from the fields that `get` returns."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    model = proto.ModelProto()
    tokens = get(f"{GGML}tokens")
    types = [kind or NORMAL for kind in get(f"{GGML}token_type", [NORMAL] * len(tokens))]
    scores = get(f"{GGML}scores", [0.0] * len(tokens))
    for text, score, kind in zip(tokens, scores, types, strict=True):
        model.pieces.add(piece=text, score=score, type=kind)
    # GGUF's tokenizer "llama" merges by score, as SentencePiece's BPE does.
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(tokens)
    model.trainer_spec.byte_fallback = proto.ModelProto.SentencePiece.BYTE in types
    for kind in ("unknown", "bos", "eos", "padding"):
        token = get(f"{GGML}{kind}_token_id")
        if token is not None and not 0 <= token < len(tokens):
            token = None  # some files write an id that does not exist for "none"
        name = {"unknown": "unk", "padding": "pad"}.get(kind, kind)
        setattr(model.trainer_spec, f"{name}_id", -1 if token is None else token)
        if token is not None:
            setattr(model.trainer_spec, f"{name}_piece", tokens[token])
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = get(f"{GGML}add_space_prefix", True)
    model.normalizer_spec.remove_extra_whitespaces = get(f"{GGML}remove_extra_whitespaces", False)
    model.normalizer_spec.escape_whitespaces = True
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    add_bos = bool(get(f"{GGML}add_bos_token", True))
    write_tokenizer_config(get, "LlamaTokenizer", add_bos, folder)


def write_tokenizer_config(get: Get, tokenizer_class: str, add_bos: bool, folder: Path) -> None:
    """Writes tokenizer_config.json, which names the special tokens, from the fields that `get`
    returns."""
    tokens = get(f"{GGML}tokens")
    config: dict[str, Any] = {
        "tokenizer_class": tokenizer_class,
        "add_bos_token": add_bos,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    for kind, name in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = get(f"{GGML}{kind}_token_id")
        if token is not None and 0 <= token < len(tokens):
            config[f"{name}_token"] = tokens[token]
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
