"""The sizes of a LLaMA: as flags, as a config.json, and as the tensors of its checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any

from bench.flags import Parser, positive
from model.types import SettingsError

MIN_VOCAB = 264  # every byte, the control tokens, and some that are merged
MAX_VOCAB = 400_000
POSITIONS = 2048
FLOAT16_BYTES = 2


@dataclass(frozen=True)
class Geometry:
    """The defaults are Open-Linly-13B's: LLaMA-13B with an untied head.

    Published notes disagree about its vocabulary; the size of its file implies about 50,000.

    Raises:
        SettingsError: there is no LLaMA of these sizes.
    """

    layers: int = 40
    hidden: int = 5120
    intermediate: int = 13824
    heads: int = 40
    kv_heads: int = 40
    vocab: int = 50_000

    def __post_init__(self) -> None:
        sizes = asdict(self)
        checks = (
            *((size > 0, f"--{name} {size} is less than 1") for name, size in sizes.items()),
            _divides("heads", "hidden", sizes),
            _divides("kv_heads", "heads", sizes),
            (
                self.hidden % (2 * self.heads or 1) == 0,
                f"--hidden {self.hidden} gives {self.heads} heads an odd size",
            ),
            (
                MIN_VOCAB <= self.vocab <= MAX_VOCAB,
                f"--vocab {self.vocab} is not from {MIN_VOCAB} to {MAX_VOCAB}",
            ),
        )
        for holds, message in checks:
            if not holds:
                raise SettingsError(message, "Choose sizes that belong together; see --help.")

    @property
    def name(self) -> str:
        """Says all sizes, for a folder."""
        return "random-" + "-".join(str(size) for size in asdict(self).values())

    @property
    def nbytes(self) -> int:
        """Of the weights in float16."""
        return sum(FLOAT16_BYTES * prod(shape) for _, shape in self.tensors())

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Every tensor's name and shape, in the order of the layers."""
        hidden, kv = self.hidden, self.hidden // self.heads * self.kv_heads
        parts = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (self.intermediate, hidden),
            "mlp.up_proj": (self.intermediate, hidden),
            "mlp.down_proj": (hidden, self.intermediate),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        yield "model.embed_tokens.weight", (self.vocab, hidden)
        for layer in range(self.layers):
            for part, shape in parts.items():
                yield f"model.layers.{layer}.{part}.weight", shape
        yield "model.norm.weight", (hidden,)
        yield "lm_head.weight", (self.vocab, hidden)

    def config(self) -> dict[str, Any]:
        """The config.json."""
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


NAMES = tuple(field.name for field in fields(Geometry))


def add_geometry(parser: Parser, layers: int) -> None:
    """A flag for each size. One that is not given is not among what `parser` reads."""
    usual = asdict(Geometry(layers=layers))
    for name in NAMES:
        default = "as many as --heads" if name == "kv_heads" else usual[name]
        parser.add_argument(
            f"--{name}", type=positive, default=argparse.SUPPRESS, metavar="N",
            help=f"default: {default}",
        )  # fmt: skip


def geometry_of(given: Mapping[str, Any], layers: int) -> Geometry:
    """What the flags that were `given` say, of a model with so many `layers` where none does.

    Raises:
        SettingsError: they do not belong together.
    """
    sizes = {name: given[name] for name in NAMES if name in given}
    if "heads" in sizes:
        sizes.setdefault("kv_heads", sizes["heads"])
    return Geometry(**{"layers": layers, **sizes})


def _divides(part: str, whole: str, sizes: Mapping[str, int]) -> tuple[bool, str]:
    holds = sizes[whole] % (sizes[part] or 1) == 0
    return holds, f"--{part} {sizes[part]} does not divide --{whole} {sizes[whole]}"
