"""Measures how exact 8-bit weights are: perplexity and divergence against full precision.

`python bench/fidelity.py --base_model B [--lora_model A] --text FILE [--json]` reads windows of the
text through the engine's own forward, with float32 weights and with int8 ones. With int8 the first
half of each window is prefilled in one piece, and the second is decoded token by token, all windows
in one batch, as replies are. The divergence is KL(full || 8bit) of the next token, in nats.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from platformdirs import user_cache_path
from torch import Tensor
from torch.nn import functional

# A script's import path begins with its own folder.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.common import BenchError, Figures, add_number, print_figures, script, script_parser
from model.config.server_flags import EMBEDDED_DEFAULT
from model.config.settings import APP_NAME
from model.default_model import ensure_default_model
from model.engine.kv_cache import SequenceCache
from model.folders.base_info import read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.layers.kernel_build import build_folder, make_decoder, supported
from model.layers.llama import Llama, SequenceSlice
from model.layers.lora import Lora
from model.serving.adapter_registry import AdapterRegistry
from model.text.tokenizer import TextSpan
from model.weight_loader import load_model


@dataclass(frozen=True)
class Fidelity:
    """Over `tokens` predictions: perplexities, mean KL in nats, share of equal likeliest tokens."""

    tokens: int
    ppl_full: float
    ppl_8bit: float
    mean_kl: float
    top1_agreement: float


def compare_logits(full: Tensor, int8: Tensor, targets: Tensor) -> Tensor:
    """Compares the logits [n, vocab_size] of both at n positions; `targets` [n] are the next ids.

    Returns:
        [n, 4]: the negative log likelihoods of the targets, full and int8; KL(full || 8bit); 1
        where the likeliest token is the same, else 0.
    """
    full, int8 = (logits.log_softmax(-1) for logits in (full, int8))
    return torch.stack([
        functional.nll_loss(full, targets, reduction="none"),
        functional.nll_loss(int8, targets, reduction="none"),
        functional.kl_div(int8, full, log_target=True, reduction="none").sum(-1),
        (full.argmax(-1) == int8.argmax(-1)).float(),
    ], dim=-1)  # fmt: skip


def fidelity_of(compared: Tensor) -> Fidelity:
    """The figures over all positions that `compare_logits` compared [..., 4]."""
    compared = compared.flatten(0, -2)
    full, int8, kl, agreement = compared.double().mean(0).tolist()
    return Fidelity(len(compared), math.exp(full), math.exp(int8), kl, agreement)


@script
def main() -> int:
    parser = script_parser("fidelity", __doc__)
    add = parser.add_argument
    add(
        "--base_model",
        default=EMBEDDED_DEFAULT,
        help="model folder (default: smollm2-135m-instruct)",
    )
    add("--lora_model", type=Path, help="adapter folder (default: none)")
    add("--text", type=Path, required=True, help="text file in UTF-8")
    add_number(parser, "tokens", 4096, "number of tokens of the text")
    add_number(parser, "window", 512, "tokens per window")
    args = parser.read(sys.argv[1:])
    results = measure_fidelity(
        args.base_model, args.lora_model, args.text, args.tokens, args.window
    )
    parts = {name: asdict(fidelity) for name, fidelity in results.items()}
    return print_figures(parts["all"] | parts if args.json else parts, args.json, table)


def table(parts: Figures) -> str:
    return "\n".join(
        " ".join([name, *(f"{key} {value:.6g}" for key, value in figures.items())])
        for name, figures in parts.items()
    )


def measure_fidelity(
    base_model: str, lora_model: Path | None, text: Path, tokens: int, window: int
) -> dict[str, Fidelity]:
    """The figures over "all" tokens, and over those of "prefill" and of "decode".

    Raises:
        LinlyError: the model, the adapter or the text cannot be used.
    """
    path = Path(base_model)
    if base_model == EMBEDDED_DEFAULT:
        path = ensure_default_model(user_cache_path(APP_NAME), lambda *_: None)
    windows = _windows(path, text, tokens, window)
    half = windows.shape[1] // 2
    models = _full_precision(path, lora_model, windows), _eight_bits(path, lora_model, windows)
    compared = torch.stack([
        compare_logits(full[:-1], int8[:-1], ids[1:])
        for ids, full, int8 in zip(windows, *models, strict=True)
    ])  # fmt: skip
    parts = {"all": compared, "prefill": compared[:, :half], "decode": compared[:, half:]}
    return {name: fidelity_of(part) for name, part in parts.items()}


def _windows(path: Path, text: Path, tokens: int, window: int) -> Tensor:
    """Token ids [windows, window] from the beginning of the text."""
    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--text: {text} cannot be read: {error}") from error
    tokenizer = load_tokenizer(read_model_folder(path))
    ids = torch.tensor(tokenizer.encode([TextSpan(content)])[:tokens])
    if window < 4 or len(ids) < window:
        raise BenchError(
            f"--text has {len(ids)} tokens, and a window needs {window}",
            "Pass a longer text, or a --window of 4 or more that fits.",
        )
    return ids[: len(ids) // window * window].view(-1, window)


def _full_precision(path: Path, lora_model: Path | None, windows: Tensor) -> Iterator[Tensor]:
    """Logits [window, vocab_size] of each window in turn, computed in one piece."""
    model, lora = _load(path, lora_model, "none")
    for window in windows:
        cache = SequenceCache(model.cache_format)
        yield model.forward([SequenceSlice(window.tolist(), cache, lora)], every_position=True)


def _eight_bits(path: Path, lora_model: Path | None, windows: Tensor) -> Iterator[Tensor]:
    """The same with int8 weights; all second halves together are decoded token by token."""
    model, lora = _load(path, lora_model, "8bit")
    if supported("cpu", "8bit"):
        folder = build_folder(user_cache_path(APP_NAME))
        rows = windows.shape[1]
        model.set_decoder(make_decoder(folder, model, torch.get_num_threads(), rows, len(windows)))
    half = windows.shape[1] // 2
    caches = [SequenceCache(model.cache_format) for _ in windows]
    prefilled = [
        model.forward([SequenceSlice(ids, cache, lora)], every_position=True).clone()
        for ids, cache in zip(windows[:, :half].tolist(), caches, strict=True)
    ]
    decoded = [
        model.forward(
            [SequenceSlice([int(i)], c, lora) for i, c in zip(ids, caches, strict=True)]
        ).clone()
        for ids in windows[:, half:].T
    ]
    for at, logits in enumerate(prefilled):
        yield torch.cat((logits, torch.stack([step[at] for step in decoded])))


def _load(path: Path, lora_model: Path | None, quantization: str) -> tuple[Llama, Lora | None]:
    base = read_model_folder(path)
    model = load_model(
        base, quantization=quantization, device="cpu", context_length=None,
        progress=lambda _: None,
    )  # fmt: skip
    if lora_model is None:
        return model, None
    facts = read_base_info(base, path.name, tokenizer=None)
    registry = AdapterRegistry(lora_model.absolute().parent, facts, _AnyTemplate())
    digest = registry.get(lora_model.name).digest
    return model, registry.load(lora_model.name, digest, model)


class _AnyTemplate(frozenset[str]):
    """A set that contains every name of a template, because templates do not matter here."""

    def __contains__(self, name: object) -> bool:
        return True


if __name__ == "__main__":
    sys.exit(main())
