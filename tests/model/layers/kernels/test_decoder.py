"""The compiled forward against the torch forward of the same weights."""

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
from tests.model.layers.kernels.conftest import GROUPED, SHAPES, MakeDecoder, make_model

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
            ins, outs = shape.linear_sizes[name]
            a, b = (
                torch.randn(rank, ins, generator=generator),
                torch.randn(outs, rank, generator=generator),
            )
            pairs[layer, name] = int8_pair(a * 0.1, b * 0.1, scaling)
    return Lora(pairs)


def loras(model: Llama) -> list[Lora | None]:
    """Other targets, ranks (one beyond the first room for them), own layers, and none at all."""
    shape = model.shape
    every = list(shape.linear_sizes)
    first, second = (
        torch.randn(shape.vocab_size, shape.hidden_size, generator=torch.Generator().manual_seed(i))
        for i in (5, 6)
    )
    return [
        None,
        make_lora(shape, every, 4, seed=1),
        make_lora(shape, ["q_proj", "v_proj"], 1, seed=2, scaling=2.0),
        replace(make_lora(shape, ["down_proj"], 24, seed=3), head=model.make_layer(first)),
        None,
        make_lora(shape, ["o_proj", "up_proj", "k_proj"], 3, seed=4),
        Lora({}, embedding=model.make_layer(first), head=model.make_layer(second)),
    ]


class Chats:
    """Prompts that have been read by the torch forward, to be continued token by token."""

    def __init__(self, model: Llama, adapters: Sequence[Lora | None]) -> None:
        self.model = model
        self.adapters = adapters
        self.scales = [1.0, 0.7, 1.0, 1.5, 1.0, 0.0, 0.5]
        kept, model.decoder = model.decoder, None
        self.caches = [empty_cache(model) for _ in adapters]
        for at, cache in enumerate(self.caches):
            model.forward([self.span(at, PROMPTS[at], cache)])
        model.decoder = kept

    def span(self, at: int, tokens: tuple[int, ...], cache: SequenceCache) -> SequenceSlice:
        return SequenceSlice(tokens, cache, self.adapters[at], self.scales[at])

    def read(self) -> Tensor:
        """The logits after each prompt, all read anew in one forward."""
        prompts = zip(range(len(self.adapters)), PROMPTS, strict=True)
        return self.model.forward([self.span(*p, empty_cache(self.model)) for p in prompts])

    def step(self, token: int, which: Sequence[int] | None = None) -> Tensor:
        which = range(len(self.caches)) if which is None else which
        spans = [self.span(at, (token + at,), self.caches[at]) for at in which]
        return self.model.forward(spans).clone()


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
    ours, torchs = Chats(model, adapters), Chats(model, adapters)
    decoder = decoder_for(model, threads)
    for token in range(20, 30):
        model.decoder = None
        expected = torchs.step(token)
        model.decoder = decoder
        assert_near(ours.step(token), expected)


def test_adapter_changes_more_than_the_tolerance() -> None:
    """So that the test above can fail: without its adapter a row is far off."""
    model = make_model(GROUPED)
    adapters = loras(model)
    with_them = Chats(model, adapters).step(20)
    without = Chats(model, [None] * len(adapters)).step(20)
    spread = with_them.amax(dim=1) - with_them.amin(dim=1)
    off = (with_them - without).abs().amax(dim=1) / spread
    assert bool((off[[1, 2, 3, 6]] > 10 * TOLERANCE).all())


def test_row_is_the_same_alone_and_in_any_batch(decoder_for: MakeDecoder) -> None:
    """To the last bit: what others ask does not change a reply."""
    model = make_model(GROUPED)
    model.set_decoder(decoder_for(model))
    adapters = loras(model)
    together, alone = Chats(model, adapters), Chats(model, adapters)
    for token in range(20, 26):
        expected = together.step(token)
        for at in reversed(range(len(adapters))):
            assert torch.equal(alone.step(token, [at])[0], expected[at])


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_prompts_of_several_users_are_read_as_by_torch(
    decoder_for: MakeDecoder, name: str, threads: int
) -> None:
    model = make_model(SHAPES[name], bias=True)
    adapters = loras(model)
    torchs = Chats(model, adapters).read()
    model.set_decoder(decoder_for(model, threads, max_rows=128))
    assert_near(Chats(model, adapters).read(), torchs)


@pytest.mark.parametrize("name", SHAPES)
def test_prompt_is_the_same_in_any_pieces_and_company(decoder_for: MakeDecoder, name: str) -> None:
    """To the last bit: at once beside others, in pieces, or token by token."""
    model = make_model(SHAPES[name])
    model.set_decoder(decoder_for(model, max_rows=128))
    adapters = loras(model)
    chats = Chats(model, adapters)
    together = chats.read().clone()
    for at, prompt in enumerate(PROMPTS):
        for piece in (1, 5, 64):
            cache = empty_cache(model)
            for begin in range(0, len(prompt), piece):
                alone = model.forward([chats.span(at, prompt[begin : begin + piece], cache)])
            assert torch.equal(alone[0], together[at]), (at, piece)


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
    chats = Chats(model, [None])
    for token in range(300):  # over the first growth of a cache
        logits = chats.step(token % 300)
    assert chats.caches[0].length == len(PROMPTS[0]) + 300
    fresh = Chats(model, [None])
    model.decoder = None
    for token in range(300):
        expected = fresh.step(token % 300)
    assert_near(logits, expected)


def test_more_rows_than_it_has_room_for_go_through_torch(decoder_for: MakeDecoder) -> None:
    model = make_model(GROUPED)
    model.set_decoder(decoder_for(model, max_rows=2, max_sequences=2))
    adapters = loras(model)
    got = Chats(model, adapters).step(20)
    model.decoder = None
    assert_near(got, Chats(model, adapters).step(20))


def test_adapter_that_has_gone_is_not_kept(decoder_for: MakeDecoder) -> None:
    import gc
    import weakref

    model = make_model(GROUPED)
    model.set_decoder(decoder_for(model))
    adapters = [None, make_lora(GROUPED, ["q_proj"], 2, seed=1)]
    gone = weakref.ref(adapters[1])
    Chats(model, adapters).step(20)
    Chats(model, [None]).step(20)  # takes the first row alone
    adapters.clear()
    gc.collect()
    assert gone() is None


def test_threads_end_with_the_decoder(decoder_for: MakeDecoder) -> None:
    before = threading.active_count()
    decoder = decoder_for(make_model(GROUPED), threads=4)
    assert threading.active_count() == before + 3
    decoder.close()
    assert threading.active_count() == before
