"""Small 8-bit models of different shapes, and compiled decoders for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from platformdirs import user_cache_path

from model.config.settings import APP_NAME
from model.layers.kernel_build import build_folder, make_decoder
from model.layers.llama import Llama, LlamaShape
from model.tensor_names import EMBEDDING, HEAD
from model.weight_loader import weight_slots

GROUPED = LlamaShape(320, 48, 112, 2, 6, 2, 8, 1e-5, tied_head=False)
ODD = LlamaShape(101, 60, 77, 3, 5, 5, 12, 1e-6, tied_head=True)
ONE_KEY_HEAD = LlamaShape(97, 40, 33, 1, 3, 1, 20, 1e-6, tied_head=False)
MANY_HEADS_A_KEY = LlamaShape(90, 64, 96, 2, 16, 2, 64, 1e-6, tied_head=True)
LARGE_HEADS = LlamaShape(90, 48, 64, 1, 2, 2, 136, 1e-6, tied_head=True)
SHAPES = {
    "grouped": GROUPED,
    "odd": ODD,
    "one key head": ONE_KEY_HEAD,
    "many heads a key": MANY_HEADS_A_KEY,
    "large heads": LARGE_HEADS,
}

if TYPE_CHECKING:  # at run time `make_decoder` imports it, after it has set the cache folder
    from model.layers.compiled_decoder import Decoder

MakeDecoder = Callable[..., "Decoder"]


def make_model(shape: LlamaShape, bias: bool = False, seed: int = 0) -> Llama:
    """A random 8-bit model."""
    generator = torch.Generator().manual_seed(seed)
    inv_freq = 10000 ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    model = Llama(
        shape, dtype=torch.float32, device="cpu", quantization="8bit", inv_freq=inv_freq,
        rope_scaling=1.0, context_length=512,
    )  # fmt: skip
    for name, slot in weight_slots(model).items():
        if name.endswith(".bias") and not bias:
            continue
        size = slot_size(name, shape)
        slot(torch.randn(size, generator=generator) * (0.2 if len(size) == 2 else 1.0))
    return model


def slot_size(name: str, shape: LlamaShape) -> tuple[int, ...]:
    """The shape of a checkpoint's tensor."""
    if "norm" in name:
        return (shape.hidden_size,)
    if name in (EMBEDDING, HEAD):
        return (shape.vocab_size, shape.hidden_size)
    inputs, outputs = shape.linear_sizes[name.split(".")[-2]]
    return (outputs,) if name.endswith(".bias") else (outputs, inputs)


@pytest.fixture(scope="session")
def machine_code() -> Path:
    """The folder of the machine code, in the user's cache, so that it is compiled once."""
    return build_folder(user_cache_path(APP_NAME))


@pytest.fixture
def decoder_for(machine_code: Path) -> Iterator[MakeDecoder]:
    """Makes decoders, and ends their threads after the test."""
    made: list[Decoder] = []

    def make(model: Llama, threads: int = 2, max_rows: int = 64, max_sequences: int = 8) -> Decoder:
        made.append(make_decoder(machine_code, model, threads, max_rows, max_sequences))
        return made[-1]

    yield make
    for decoder in made:
        decoder.close()
