"""A TencentPretrain checkpoint, its SentencePiece model and an adapter, with random weights."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from bench.geometry import Geometry
from bench.random_model import random_tensors
from model.convert.tencent import LAYER_NAMES, NAMES

MADE = ("checkpoint.bin", "checkpoint.model", "adapter")
RANK = 16
SPREAD = 0.02  # of the adapter's weights
CONTROL = ("<unk>", "<s>", "</s>")
BYTES = 256
LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")


def write_checkpoint(geometry: Geometry, path: Path) -> None:
    """Write a .bin in float16. It is in memory as a whole meanwhile."""
    import torch

    theirs = {ours: name for name, ours in NAMES.items()}
    in_layer = {ours: name for name, ours in LAYER_NAMES.items()}
    weights = {}
    for tensor in random_tensors(geometry, seed=0):
        found = LAYER.match(tensor.name)
        if found:
            weights[f"encoder.transformer.{found[1]}.{in_layer[found[2]]}"] = tensor.read()
        else:
            weights[theirs[tensor.name]] = tensor.read()
    torch.save(weights, path)


def write_spm(pieces: int, path: Path) -> None:
    """LLaMA's control tokens and bytes, and then as many words as it takes."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    kinds = proto.ModelProto.SentencePiece
    model = proto.ModelProto()
    for text in CONTROL:
        kind = kinds.UNKNOWN if text == "<unk>" else kinds.CONTROL
        model.pieces.add(piece=text, score=0.0, type=kind)
    for byte in range(BYTES):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=kinds.BYTE)
    for number in range(pieces - len(CONTROL) - BYTES):
        model.pieces.add(piece=f"w{number}", score=-float(number), type=kinds.NORMAL)
    spec = model.trainer_spec
    spec.model_type, spec.vocab_size, spec.byte_fallback = proto.TrainerSpec.BPE, pieces, True
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 0, 1, 2, -1
    model.normalizer_spec.name = "identity"
    path.write_bytes(model.SerializeToString())


def write_adapter(geometry: Geometry, folder: Path) -> None:
    """Write a LoRA of rank RANK on all linear layers, in float16."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(1)
    held, modules = {}, set()
    for name, shape in geometry.tensors():
        if not name.endswith("_proj.weight"):
            continue
        module = name.removesuffix(".weight")
        modules.add(module.rpartition(".")[2])
        for side, size in (("A", (RANK, shape[1])), ("B", (shape[0], RANK))):
            values = torch.randn(size, generator=generator) * SPREAD
            held[f"base_model.model.{module}.lora_{side}.weight"] = values.half()
    folder.mkdir()
    save_file(held, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": sorted(modules),
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


if __name__ == "__main__":  # python -m bench.foldering.made SIZES FOLDER
    wanted, where = Geometry(**json.loads(sys.argv[1])), Path(sys.argv[2])
    checkpoint, spm, adapter = (where / name for name in MADE)
    write_checkpoint(wanted, checkpoint)
    write_spm(wanted.vocab, spm)
    write_adapter(wanted, adapter)
