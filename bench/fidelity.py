"""What 8 bits cost in exactness: perplexity and divergence against full precision.

`python bench/fidelity.py --base_model B [--lora_model A] --text FILE [--json]` reads windows of
the text through the engine's own forward, with float32 weights and with int8 ones. With int8
the first half of each window is prefilled in one piece, and the second decoded token by token, all
windows in one batch, as replies are. Divergence is KL(full || 8bit) of the next token, in nats.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from platformdirs import user_cache_path
from torch import Tensor
from torch.nn import functional

# Started as a script, Python only looks beside it.
sys.path.insert(0, str(Path(__file__).parents[1]))

from model.config.server_flags import EMBEDDED_DEFAULT
from model.config.settings import APP_NAME
from model.default_model import ensure_embedded
from model.engine.kv_cache import SequenceCache
from model.folders.base_info import base_facts
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.layers.kernel_build import build_folder, make_decoder, supported
from model.layers.llama import Llama, SequenceSlice
from model.layers.lora import Lora
from model.serving.adapter_registry import AdapterRegistry
from model.text.tokenizer import TextSpan
from model.types import LinlyError, SettingsError
from model.weight_loader import load_model


@dataclass(frozen=True)
class Fidelity:
    """Over `tokens` predictions: perplexities, mean KL in nats, share of equal likeliest tokens."""

    tokens: int
    ppl_full: float
    ppl_8bit: float
    mean_kl: float
    top1_agreement: float


@dataclass
class KLAccumulator:
    """What the figures are made of, gathered piece by piece."""

    tokens: int = 0
    full: float = 0.0
    int8: float = 0.0
    kl: float = 0.0
    agreed: int = 0

    def add(self, full: Tensor, int8: Tensor, targets: Tensor) -> None:
        """Logits [n, vocab_size] of both, and the ids that followed [n]."""
        full, int8 = (logits.log_softmax(-1) for logits in (full, int8))
        self.tokens += len(targets)
        self.full -= float(full.gather(1, targets[:, None]).sum())
        self.int8 -= float(int8.gather(1, targets[:, None]).sum())
        self.kl += float(functional.kl_div(int8, full, log_target=True, reduction="sum"))
        self.agreed += int((full.argmax(-1) == int8.argmax(-1)).sum())

    def figures(self) -> Fidelity:
        full, int8 = math.exp(self.full / self.tokens), math.exp(self.int8 / self.tokens)
        return Fidelity(self.tokens, full, int8, self.kl / self.tokens, self.agreed / self.tokens)


def main() -> int:
    options = _options()
    try:
        figures = measure(
            options.base_model, options.lora_model, options.text, options.tokens, options.window
        )
    except LinlyError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if options.json:
        print(json.dumps({**asdict(figures["all"]), **{k: asdict(v) for k, v in figures.items()}}))
        return 0
    for name, figure in figures.items():
        print(name, " ".join(f"{key} {value:.6g}" for key, value in asdict(figure).items()))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--base_model", default=EMBEDDED_DEFAULT, help="a model folder")
    parser.add_argument("--lora_model", type=Path, help="an adapter folder")
    parser.add_argument("--text", type=Path, required=True, help="a text file in UTF-8")
    parser.add_argument("--tokens", type=int, default=4096, help="of the text (default: 4096)")
    parser.add_argument("--window", type=int, default=512, help="tokens in a window (default: 512)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def measure(
    base_model: str, lora_model: Path | None, text: Path, tokens: int, window: int
) -> dict[str, Fidelity]:
    """The figures, for "all" tokens and for those of "prefill" and "decode" alone.

    Raises:
        LinlyError: the model, the adapter or the text cannot be used.
    """
    path = Path(base_model)
    if base_model == EMBEDDED_DEFAULT:
        path = ensure_embedded(user_cache_path(APP_NAME), lambda *_: None)
    windows = _windows(path, text, tokens, window)
    half = windows.shape[1] // 2
    sums = {"all": KLAccumulator(), "prefill": KLAccumulator(), "decode": KLAccumulator()}
    models = _full_precision(path, lora_model, windows), _eight_bits(path, lora_model, windows)
    for ids, full, int8 in zip(windows.tolist(), *models, strict=True):
        following = torch.tensor(ids[1:])
        for kind, part in (("prefill", slice(0, half)), ("decode", slice(half, len(following)))):
            targets = following[part]
            sums[kind].add(full[part], int8[part], targets)
            sums["all"].add(full[part], int8[part], targets)
    return {name: total.figures() for name, total in sums.items()}


def _windows(path: Path, text: Path, tokens: int, window: int) -> Tensor:
    """Token ids [windows, window] from the beginning of the text."""
    try:
        content = text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--text: {text} cannot be read: {error}") from error
    tokenizer = load_tokenizer(read_model_folder(path))
    ids = torch.tensor(tokenizer.encode([TextSpan(content)])[:tokens])
    if window < 4 or len(ids) < window:
        raise SettingsError(
            f"--text has {len(ids)} tokens, and a window needs {window}",
            "Pass a longer text, or a --window of 4 or more that fits.",
        )
    return ids[: len(ids) // window * window].view(-1, window)


def _full_precision(path: Path, lora_model: Path | None, windows: Tensor) -> Iterator[Tensor]:
    """Logits [window, vocab_size] of each window in turn, each in one piece."""
    model = _load(path, "none")
    lora = None if lora_model is None else _lora(lora_model, path, model)
    for window in windows:
        cache = SequenceCache(model.cache_format)
        yield model.forward([SequenceSlice(window.tolist(), cache, lora)], every_position=True)


def _eight_bits(path: Path, lora_model: Path | None, windows: Tensor) -> Iterator[Tensor]:
    """The same with int8 weights, the second half of the windows token by token, all at once."""
    model = _load(path, "8bit")
    if supported("cpu", "8bit"):
        folder = build_folder(user_cache_path(APP_NAME))
        rows = windows.shape[1]
        model.set_decoder(make_decoder(folder, model, torch.get_num_threads(), rows, len(windows)))
    lora = None if lora_model is None else _lora(lora_model, path, model)
    half = windows.shape[1] // 2
    caches = [SequenceCache(model.cache_format) for _ in windows]
    read = [
        model.forward(
            [SequenceSlice(window[:half].tolist(), cache, lora)], every_position=True
        ).clone()
        for window, cache in zip(windows, caches, strict=True)
    ]
    decoded = [
        model.forward(
            [SequenceSlice([int(i)], c, lora) for i, c in zip(ids, caches, strict=True)]
        ).clone()
        for ids in windows[:, half:].T
    ]
    for at, logits in enumerate(read):
        yield torch.cat((logits, torch.stack([step[at] for step in decoded])))


def _load(path: Path, quantization: str) -> Llama:
    return load_model(
        read_model_folder(path), quantization=quantization, device="cpu", context_length=None,
        progress=lambda _: None,
    )  # fmt: skip


def _lora(folder: Path, base: Path, model: Llama) -> Lora:
    facts = base_facts(read_model_folder(base), base.name, tokenizer=None)
    registry = AdapterRegistry(folder.absolute().parent, facts, _AnyTemplate())
    digest = registry.get(folder.name).digest
    return registry.load(folder.name, digest, model)


class _AnyTemplate(frozenset[str]):
    """Templates do not matter here."""

    def __contains__(self, name: object) -> bool:
        return True


if __name__ == "__main__":
    sys.exit(main())
