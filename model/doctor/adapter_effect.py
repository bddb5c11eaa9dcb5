"""What an adapter does to the next token of a probe prompt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from model.diagnostics import Finding, finding
from model.folders import adapter_files
from model.folders.model_folder import ModelFolder, load_tokenizer
from model.text.prompt import PromptTemplate, encode_chat
from model.types import Message

if TYPE_CHECKING:
    from torch import Tensor

QUESTION = "Hello! Who are you, and what can you do for me?"
PLAIN_BYTES = 1_000_000_000  # up to here in full precision, beyond it in 8-bit
CONTEXT = 512  # tokens
NO_EFFECT = 1e-4  # KL in nats
# Entropies in nats. A personality may move the next token as far as it likes, but it knows what it
# wants to say; a foreign adapter leaves the model undecided between everything.
UNDECIDED, MORE_UNDECIDED = 5.0, 2.5


def measure_effect(adapter: Path, base: ModelFolder, template: PromptTemplate) -> Iterator[Finding]:
    """The Kullback-Leibler divergence of the next token's distribution with the adapter in
    `adapter` from that of the base alone, in nats, behind a question in the adapter's template.

    Raises:
        FolderError: one of them cannot be loaded.
    """
    alone, adapted = _next_token(adapter, base, template)
    kl = max(0.0, float((alone.exp() * (alone - adapted)).sum()))
    before, after = _entropy(alone), _entropy(adapted)
    if kl < NO_EFFECT:
        yield finding("adapter_no_effect", kl=kl)
    elif after > UNDECIDED and after > before + MORE_UNDECIDED:
        yield finding("adapter_wild", before=before, after=after)
    else:
        yield finding("adapter_effect", kl=kl)


def _entropy(log_probabilities: Tensor) -> float:
    return float(-(log_probabilities.exp() * log_probabilities).sum())


def _next_token(
    adapter: Path, base: ModelFolder, template: PromptTemplate
) -> tuple[Tensor, Tensor]:
    """Log-probabilities [pieces] of the next token of the base alone, and with the adapter."""
    from model.engine.kv_cache import SequenceCache
    from model.layers.llama import SequenceSlice
    from model.weight_loader import load_model, resolve_device

    quantization = "none" if base.nbytes <= PLAIN_BYTES else "8bit"
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

    alone = next_token(SequenceSlice(ids, SequenceCache(model.cache_format)))
    return alone, next_token(SequenceSlice(ids, SequenceCache(model.cache_format), lora))
