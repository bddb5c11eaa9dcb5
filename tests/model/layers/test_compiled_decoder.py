"""The compiled forward, compared with the torch forward of the same weights."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.engine.kv_cache import SequenceCache
from model.layers.llama import Llama, LlamaShape, SequenceSlice
from model.layers.lora import Lora, int8_pair
from tests.model.layers.conftest import GROUPED, SHAPES, MakeDecoder, make_model

TOLERANCE = 2e-3  # of the logits' spread: float16 keys and values, and another order of sums
PROMPTS = [
    (5, 9, 2),
    (7,),
    tuple(range(3, 60)),
    (1, 2, 3, 4, 5, 6),
    (8, 8),
    (11, 12, 13),
    (4, 3, 2, 1),
]


def make_lora(
    shape: LlamaShape, modules: Sequence[str], rank: int, seed: int, scaling: float = 0.5
) -> Lora:
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for layer in range(shape.num_layers):
        for name in modules:
            inputs, outputs = shape.linear_sizes[name]
            a, b = (
                torch.randn(rank, inputs, generator=generator),
                torch.randn(outputs, rank, generator=generator),
            )
            pairs[layer, name] = int8_pair(a * 0.1, b * 0.1, scaling)
    return Lora(pairs)


def loras(model: Llama) -> list[Lora | None]:
    """Different modules and ranks (one beyond INITIAL_RANK), own layers, and no adapter."""
    shape = model.shape
    all_modules = list(shape.linear_sizes)
    first, second = (
        torch.randn(shape.vocab_size, shape.hidden_size, generator=torch.Generator().manual_seed(i))
        for i in (5, 6)
    )
    return [
        None,
        make_lora(shape, all_modules, 4, seed=1),
        make_lora(shape, ["q_proj", "v_proj"], 1, seed=2, scaling=2.0),
        replace(make_lora(shape, ["down_proj"], 24, seed=3), head=model.make_layer(first)),
        None,
        make_lora(shape, ["o_proj", "up_proj", "k_proj"], 3, seed=4),
        Lora({}, embedding=model.make_layer(first), head=model.make_layer(second)),
    ]


class Sequences:
    """Sequences whose prompts the torch forward has computed, to be continued token by token."""

    def __init__(self, model: Llama, adapters: Sequence[Lora | None]) -> None:
        self.model = model
        self.adapters = adapters
        self.adapter_scales = [1.0, 0.7, 1.0, 1.5, 1.0, 0.0, 0.5]
        decoder, model.decoder = model.decoder, None
        self.caches = [empty_cache(model) for _ in adapters]
        for at, cache in enumerate(self.caches):
            model.forward([self.slice(at, PROMPTS[at], cache)])
        model.decoder = decoder

    def slice(self, at: int, tokens: tuple[int, ...], cache: SequenceCache) -> SequenceSlice:
        return SequenceSlice(tokens, cache, self.adapters[at], self.adapter_scales[at])

    def prefill(self) -> Tensor:
        """The logits after each prompt, all computed in one forward with empty caches."""
        prompts = zip(range(len(self.adapters)), PROMPTS, strict=True)
        return self.model.forward([self.slice(*p, empty_cache(self.model)) for p in prompts])

    def step(self, token: int, chosen: Sequence[int] | None = None) -> Tensor:
        """The logits of the next token of all sequences, or of the `chosen` ones."""
        chosen = range(len(self.caches)) if chosen is None else chosen
        slices = [self.slice(at, (token + at,), self.caches[at]) for at in chosen]
        return self.model.forward(slices).clone()


def empty_cache(model: Llama) -> SequenceCache:
    return SequenceCache(model.cache_format)


def assert_near(got: Tensor, expected: Tensor) -> None:
    error = (got - expected).abs().amax(dim=1)
    spread = expected.amax(dim=1) - expected.amin(dim=1)
    assert bool((error <= TOLERANCE * spread).all()), (error / spread).tolist()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_mixed_batch_is_the_torch_forward(
    decoder_for: MakeDecoder, name: str, bias: bool, threads: int
) -> None:
    model = make_model(SHAPES[name], bias)
    adapters = loras(model)
    by_decoder, by_torch = Sequences(model, adapters), Sequences(model, adapters)
    decoder = decoder_for(model, threads)
    for token in range(20, 30):
        model.decoder = None
        expected = by_torch.step(token)
        model.decoder = decoder
        assert_near(by_decoder.step(token), expected)


def test_adapter_changes_more_than_the_tolerance() -> None:
    """It shows that the test above can fail: without its adapter a row is far off."""
    model = make_model(GROUPED)
    adapters = loras(model)
    adapted = Sequences(model, adapters).step(20)
    without = Sequences(model, [None] * len(adapters)).step(20)
    spread = adapted.amax(dim=1) - adapted.amin(dim=1)
    distance = (adapted - without).abs().amax(dim=1) / spread
    assert bool((distance[[1, 2, 3, 6]] > 10 * TOLERANCE).all())


def test_row_is_the_same_alone_and_in_every_batch(decoder_for: MakeDecoder) -> None:
    """To the last bit: other requests do not change a reply."""
    model = make_model(GROUPED)
    model.set_decoder(decoder_for(model))
    adapters = loras(model)
    together, alone = Sequences(model, adapters), Sequences(model, adapters)
    for token in range(20, 26):
        expected = together.step(token)
        for at in reversed(range(len(adapters))):
            assert torch.equal(alone.step(token, [at])[0], expected[at])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_prompts_of_several_sequences_are_computed_as_by_torch(
    decoder_for: MakeDecoder, name: str, threads: int
) -> None:
    model = make_model(SHAPES[name], bias=True)
    adapters = loras(model)
    expected = Sequences(model, adapters).prefill()
    model.set_decoder(decoder_for(model, threads, max_rows=128))
    assert_near(Sequences(model, adapters).prefill(), expected)


@pytest.mark.parametrize("name", SHAPES)
def test_prompt_is_the_same_in_chunks_and_in_a_batch(decoder_for: MakeDecoder, name: str) -> None:
    """To the last bit: at once in a batch, in chunks, or token by token."""
    model = make_model(SHAPES[name])
    model.set_decoder(decoder_for(model, max_rows=128))
    adapters = loras(model)
    sequences = Sequences(model, adapters)
    together = sequences.prefill().clone()
    for at, prompt in enumerate(PROMPTS):
        for size in (1, 5, 64):
            cache = empty_cache(model)
            for begin in range(0, len(prompt), size):
                alone = model.forward([sequences.slice(at, prompt[begin : begin + size], cache)])
            assert torch.equal(alone[0], together[at]), (at, size)


def test_logits_of_every_position(decoder_for: MakeDecoder) -> None:
    model = make_model(GROUPED)
    model.set_decoder(decoder_for(model, max_rows=128))
    prompt, cache = PROMPTS[2], empty_cache(model)
    steps = [model.forward([SequenceSlice((token,), cache)]).clone() for token in prompt]
    other = SequenceSlice(PROMPTS[0], empty_cache(model))
    logits = model.forward([other, SequenceSlice(prompt, empty_cache(model))], every_position=True)
    assert torch.equal(logits[len(PROMPTS[0]) :], torch.cat(steps))


def test_caches_grow_and_advance(decoder_for: MakeDecoder) -> None:
    model = make_model(GROUPED)
    model.set_decoder(decoder_for(model))
    sequences = Sequences(model, [None])
    for token in range(300):  # over the first growth of a cache
        logits = sequences.step(token % 300)
    assert sequences.caches[0].length == len(PROMPTS[0]) + 300
    fresh = Sequences(model, [None])
    model.decoder = None
    for token in range(300):
        expected = fresh.step(token % 300)
    assert_near(logits, expected)


def test_more_rows_than_fit_are_computed_by_torch(decoder_for: MakeDecoder) -> None:
    model = make_model(GROUPED)
    model.set_decoder(decoder_for(model, max_rows=2, max_sequences=2))
    adapters = loras(model)
    got = Sequences(model, adapters).step(20)
    model.decoder = None
    assert_near(got, Sequences(model, adapters).step(20))


def test_unused_adapter_is_freed(decoder_for: MakeDecoder) -> None:
    import gc
    import weakref

    model = make_model(GROUPED)
    model.set_decoder(decoder_for(model))
    adapters = [None, make_lora(GROUPED, ["q_proj"], 2, seed=1)]
    reference = weakref.ref(adapters[1])
    Sequences(model, adapters).step(20)
    Sequences(model, [None]).step(20)  # uses the first row alone
    adapters.clear()
    gc.collect()
    assert reference() is None


def test_threads_end_with_the_decoder(decoder_for: MakeDecoder) -> None:
    before = threading.active_count()
    decoder = decoder_for(make_model(GROUPED), threads=4)
    assert threading.active_count() == before + 3
    decoder.close()
    assert threading.active_count() == before
