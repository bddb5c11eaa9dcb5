"""A model folder of any size with random weights, to measure large models without their files.

`python bench/random_model.py FOLDER [--layers N …]` writes float16 weights in safetensors shards,
config.json and a tokenizer; the default geometry is Open-Linly-13B's. Memory stays below 1 GB.

The weights are not as random as they look: all matrices are read off one block of 2^24 normal
numbers (standard deviation 0.02), each from a random offset on, and repeatedly. No two rows of a
matrix are equal, and the cost of a multiplication does not depend on the numbers. Norms are 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import count, islice, product
from math import prod
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import BenchError, add_number, positive, script
from model.config.argument_parser import ArgumentParser
from model.folders.atomic_folder import new_folder
from model.folders.lazy_tensor import LazyTensor
from model.folders.tensor_schema import expected_tensors
from model.folders.weight_writer import nbytes_of, write_weights
from model.progress_bar import bar

if TYPE_CHECKING:
    from torch import Tensor

BLOCK_VALUES = 16_777_213  # the largest prime below 2^24, so it is no multiple of a row's width
SPREAD = 0.02  # activations stay finite through 40 layers
MIN_VOCAB = 264  # every byte, the control tokens, and some merged ones
MAX_VOCAB = 400_000
POSITIONS = 2048
FLOAT16_BYTES = 2
CONTROL_TOKENS = ("<unk>", "<s>", "</s>")
# Linly's own chat format.
TEMPLATE = (
    "{% for m in messages %}{{ 'User: ' if m['role'] == 'user' else 'Bot: ' }}{{ m['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}Bot: {% endif %}"
)

Block = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Geometry:
    """The sizes of a LLaMA. The defaults are Open-Linly-13B's: LLaMA-13B with an untied head.

    Published notes disagree about its vocabulary; the size of its file implies about 50,000.

    Raises:
        BenchError: no LLaMA has these sizes.
    """

    layers: int = 40
    hidden: int = 5120
    intermediate: int = 13824
    heads: int = 40
    kv_heads: int = 40
    vocab: int = 50_000

    def __post_init__(self) -> None:
        sizes = asdict(self)
        checks = [(size > 0, f"--{name} {size} is less than 1") for name, size in sizes.items()]
        for part, total in (("heads", "hidden"), ("kv_heads", "heads")):
            message = f"--{part} {sizes[part]} does not divide --{total} {sizes[total]}"
            checks.append((sizes[total] % (sizes[part] or 1) == 0, message))
        odd = f"--hidden {self.hidden} gives {self.heads} heads an odd size"
        checks.append((self.hidden % (2 * self.heads or 1) == 0, odd))
        message = f"--vocab {self.vocab} is not from {MIN_VOCAB} to {MAX_VOCAB}"
        checks.append((MIN_VOCAB <= self.vocab <= MAX_VOCAB, message))
        for holds, message in checks:
            if not holds:
                raise BenchError(message, "Choose sizes that belong together; see --help.")

    @property
    def name(self) -> str:
        """A name for a folder, made of all sizes."""
        return "random-" + "-".join(str(size) for size in asdict(self).values())

    @property
    def nbytes(self) -> int:
        """Size of the weights in float16."""
        return sum(FLOAT16_BYTES * prod(shape) for shape in self.tensors().values())

    def tensors(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's name and shape, in the order of the layers."""
        return expected_tensors(self.config())

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": "float16",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "hidden_act": "silu",
            "max_position_embeddings": POSITIONS,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }


SIZES = tuple(field.name for field in fields(Geometry))


def add_geometry(parser: ArgumentParser, layers: int) -> None:
    """Add a flag for each size. One that is not passed is missing in the parsed arguments."""
    defaults = asdict(Geometry(layers=layers)) | {"kv_heads": "as many as --heads"}
    for name in SIZES:
        parser.add_argument(
            f"--{name}", type=positive, default=argparse.SUPPRESS, metavar="N",
            help=f"default: {defaults[name]}",
        )  # fmt: skip


def geometry_of(args: argparse.Namespace, layers: int) -> Geometry:
    """The geometry that the flags describe, with so many `layers` by default.

    Raises:
        BenchError: the sizes do not belong together.
    """
    sizes = {name: getattr(args, name) for name in SIZES if hasattr(args, name)}
    if "heads" in sizes:
        sizes.setdefault("kv_heads", sizes["heads"])
    return Geometry(**{"layers": layers, **sizes})


@script
def main() -> int:
    parser = ArgumentParser(
        prog="bench/random_model.py", description=(__doc__ or "").split("\n\n")[0],
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to create")
    add_geometry(parser, Geometry.layers)
    add_number(parser, "seed", 0, minimum=0)
    args = parser.read(sys.argv[1:])
    write_model(args.folder, geometry_of(args, Geometry.layers), args.seed)
    return 0


def write_model(folder: Path, geometry: Geometry, seed: int) -> None:
    """Write the model; `folder` appears complete or not at all.

    Raises:
        ModelFolderError: `folder` exists already, or its disk has no room.
    """
    tensors = list(random_tensors(geometry, seed))
    recipe = {"random": seed, "config": geometry.config()}
    with new_folder(folder, recipe, nbytes_of(tensors)) as scratch:
        write_tokenizer(scratch, geometry.vocab)
        text = json.dumps(geometry.config(), indent=2)
        (scratch / "config.json").write_text(text, encoding="utf-8")
        with bar(f"Writing {folder.name}", nbytes_of(tensors)) as progress:
            write_weights(tensors, scratch, progress)


def random_tensors(geometry: Geometry, seed: int) -> Iterator[LazyTensor]:
    """The model's tensors, in the order of the layers."""
    random = np.random.default_rng(seed)
    block = (random.standard_normal(BLOCK_VALUES, np.float32) * SPREAD).astype(np.float16)
    for name, shape in geometry.tensors().items():
        offset = int(random.integers(BLOCK_VALUES))
        read = partial(_values, shape, None if "norm" in name else offset, block)
        yield LazyTensor(name, "F16", shape, read)


def _values(shape: tuple[int, ...], offset: int | None, block: Block) -> Tensor:
    """The block from `offset` on and then again and again; with None, ones."""
    import torch

    if offset is None:
        return torch.ones(shape, dtype=torch.float16)
    values = np.resize(np.roll(block, -offset), shape)
    return torch.from_numpy(values)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write tokenizer.json and tokenizer_config.json with so many tokens into `folder`.

    Byte-level BPE with LLaMA's control tokens first. Nearly all tokens are letters, so that a
    server sends some text for every token of a random model.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(islice(_merges(), vocab_size - len(CONTROL_TOKENS) - len(alphabet)))
    texts = [*CONTROL_TOKENS, *alphabet, *(left + right for left, right in merges)]
    vocabulary = {text: number for number, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": CONTROL_TOKENS[1], "eos_token": CONTROL_TOKENS[2], "chat_template": TEMPLATE,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _merges() -> Iterator[tuple[str, str]]:
    """Every string of at least two letters, the shorter ones first: its prefix and last letter."""
    for length in count(2):
        for letters in product(ascii_lowercase, repeat=length):
            yield "".join(letters[:-1]), letters[-1]


if __name__ == "__main__":
    sys.exit(main())
