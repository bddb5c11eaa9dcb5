"""Measures what an adapter does to the next token of a probe prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from model.diagnostics import Finding, finding
from model.folders import adapter_files
from model.folders.model_folder import ModelFolder, load_tokenizer
from model.text.prompt import encode_chat
from model.text.prompt_template import PromptTemplate
from model.types import Message

if TYPE_CHECKING:
    from torch import Tensor

QUESTION = "Hello! Who are you, and what can you do for me?"
MAX_UNQUANTIZED_BYTES = 1_000_000_000  # larger bases are loaded in 8-bit
CONTEXT = 512  # tokens
NO_EFFECT = 1e-4  # KL in nats
# Entropies in nats. An adapter can change the next token completely, but a few tokens should stay
# more likely than others; with an adapter of another base, all become about equally likely.
HIGH_ENTROPY, ENTROPY_RISE = 5.0, 2.5


def measure_effect(adapter: Path, base: ModelFolder, template: PromptTemplate) -> Iterator[Finding]:
    """Compares the next token's distribution with the adapter and without it.

    Yields one finding, with the Kullback-Leibler divergence from the base's distribution to the
    adapter's in nats, or the entropies if the adapter's is too high. The prompt is a question in
    the adapter's template.

    Raises:
        FolderError: one of them cannot be loaded.
    """
    without, adapted = _next_token(adapter, base, template)
    kl = max(0.0, float((without.exp() * (without - adapted)).sum()))
    before, after = _entropy(without), _entropy(adapted)
    if kl < NO_EFFECT:
        yield finding("adapter_no_effect", kl=kl)
    elif after > HIGH_ENTROPY and after > before + ENTROPY_RISE:
        yield finding("adapter_wild", before=before, after=after)
    else:
        yield finding("adapter_effect", kl=kl)


def _entropy(log_probabilities: Tensor) -> float:
    return float(-(log_probabilities.exp() * log_probabilities).sum())


def _next_token(
    adapter: Path, base: ModelFolder, template: PromptTemplate
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [vocab_size] of the next token, without the adapter and with it."""
    from model.engine.kv_cache import SequenceCache
    from model.layers.llama import SequenceSlice
    from model.weight_loader import load_model, resolve_device

    quantization = "none" if base.nbytes <= MAX_UNQUANTIZED_BYTES else "8bit"
    model = load_model(
        base, quantization=quantization, device=resolve_device("auto", quantization),
        context_length=CONTEXT, progress=lambda _: None,
    )  # fmt: skip
    tokenizer = load_tokenizer(base)
    ids = encode_chat([Message("user", QUESTION)], template, tokenizer, CONTEXT - 1).ids
    lora = adapter_files.load(adapter, model)

    def next_token(span: SequenceSlice) -> Tensor:
        logits = model.forward([span])[0, : tokenizer.vocab_size]
        return logits.double().log_softmax(-1)

    without = next_token(SequenceSlice(ids, SequenceCache(model.cache_format)))
    return without, next_token(SequenceSlice(ids, SequenceCache(model.cache_format), lora))
