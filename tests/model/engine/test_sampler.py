"""The sampler: filters as in transformers, seeds, penalties, and ids that are never chosen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from model.engine.sampler import Floats, Sampler
from model.errors import RequestError
from model.sampling import Sampling

VOCAB = 200
EOS = frozenset({3, 7})
NO_FILTERS: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}


def random_logits(seed: int, vocab: int = VOCAB) -> Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * 3


def row(logits: Tensor) -> Floats:
    """A copy as an array: the sampler may change it."""
    return logits.clone().numpy()


def sampler(
    prompt: tuple[int, ...] = (),
    eos: frozenset[int] = frozenset(),
    vocab_size: int = VOCAB,
    **sampling: Any,
) -> Sampler:
    return Sampler(Sampling(**{**NO_FILTERS, "seed": 0, **sampling}), prompt, eos, vocab_size)


def drawn(sampling: dict[str, Any], logits: Tensor, seeds: int = 50, **more: Any) -> list[int]:
    return [sampler(seed=s, **sampling, **more).choose(row(logits)).token_id for s in range(seeds)]


# Greedy


@pytest.mark.parametrize("seed", range(5))
def test_temperature_zero_is_the_likeliest(seed: int) -> None:
    logits = random_logits(seed)
    all_filters: list[dict[str, Any]] = [{}, {"top_k": 40, "top_p": 0.9}, {"min_p": 0.5}]
    for filters in all_filters:
        chosen = sampler(temperature=0, **filters).choose(row(logits))
        assert chosen.token_id == int(logits.argmax())


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}])
def test_narrowest_filter_leaves_the_likeliest(filters: dict[str, Any]) -> None:
    logits = random_logits(1)
    assert set(drawn(filters, logits)) == {int(logits.argmax())}


@pytest.mark.parametrize("temperature", [1e-6, 1e-37, 1e-40, 5e-324])
def test_temperature_next_to_zero_is_greedy(temperature: float) -> None:
    """Dividing by it overflows float32, and a draw from the result would be an error."""
    logits = random_logits(2)
    assert set(drawn({"temperature": temperature}, logits, 5)) == {int(logits.argmax())}


# The filters, against transformers'

FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 10 * VOCAB},
    {"top_p": 0.1},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.01},
    {"min_p": 0.3},
    {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.5, "top_k": 20, "min_p": 0.05},
    {"top_p": 0.5, "min_p": 0.1},
    {"temperature": 1.2, "top_k": 50, "top_p": 0.8, "min_p": 0.02},
]


def warped(logits: Tensor, sampling: dict[str, Any]) -> Tensor:
    """The logits after transformers' warpers, in their order."""
    warpers = LogitsProcessorList()
    if "temperature" in sampling:
        warpers.append(TemperatureLogitsWarper(sampling["temperature"]))
    if "top_k" in sampling:
        warpers.append(TopKLogitsWarper(sampling["top_k"]))
    if "top_p" in sampling:
        warpers.append(TopPLogitsWarper(sampling["top_p"]))
    if "min_p" in sampling:
        warpers.append(MinPLogitsWarper(sampling["min_p"]))
    result: Tensor = warpers(torch.zeros(1, 0, dtype=torch.long), logits[None].clone())[0]
    return result


@pytest.mark.parametrize("sampling", FILTERS, ids=str)
@pytest.mark.parametrize("seed", range(8))
def test_the_same_tokens_pass_the_filters_as_in_transformers(
    sampling: dict[str, Any], seed: int
) -> None:
    logits = random_logits(seed)
    expected = warped(logits, sampling).softmax(0)
    made = sampler(**sampling)
    ids, weights = made.candidates(logits.numpy())
    assert set(ids.tolist()) == set(expected.nonzero().flatten().tolist())
    probabilities = torch.from_numpy(weights / weights.sum()).float()
    torch.testing.assert_close(probabilities, expected[ids], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sampling", FILTERS[1:], ids=str)
def test_only_tokens_that_pass_the_filters_are_drawn(sampling: dict[str, Any]) -> None:
    logits = random_logits(11)
    surviving = set(warped(logits, sampling).isfinite().nonzero().flatten().tolist())
    assert set(drawn(sampling, logits)) <= surviving


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    made = sampler(vocab_size=3)
    counts = Counter(made.choose(row(probabilities.log())).token_id for _ in range(3000))
    for token_id, probability in enumerate(probabilities.tolist()):
        # five standard deviations of the count
        assert abs(counts[token_id] - 3000 * probability) < 5 * (3000 * 0.25) ** 0.5


# Repetition penalty


@pytest.mark.parametrize("penalty", [0.5, 1.1, 1.3, 4.0])
@pytest.mark.parametrize("shift", [0.0, -20.0])  # negative logits are multiplied, not divided
@pytest.mark.parametrize("seed", range(3))
def test_repetition_penalty_is_transformers(penalty: float, shift: float, seed: int) -> None:
    """The prompt and what was chosen so far both count, each once."""
    prompt = (5, 5, 9, 50, 120)
    made = sampler(prompt, temperature=0, repetition_penalty=penalty)
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    seen = list(prompt)
    for step in range(20):
        logits = random_logits(100 * seed + step) + shift
        expected = processor(torch.tensor([seen]), logits[None])[0].argmax()
        chosen = made.choose(row(logits)).token_id
        assert chosen == int(expected)
        seen.append(chosen)


def test_repetition_penalty_makes_greedy_leave_a_loop() -> None:
    logits = torch.tensor([1.0, 1.2, 1.1])
    made = sampler(vocab_size=3, temperature=0, repetition_penalty=1.5)
    assert [made.choose(row(logits)).token_id for _ in range(3)] == [1, 2, 0]


def test_penalty_of_one_changes_nothing() -> None:
    logits = random_logits(4)
    assert drawn({"repetition_penalty": 1.0, "prompt": (1, 2, 3)}, logits) == drawn({}, logits)


@pytest.mark.parametrize("presence", [-1.5, 0.0, 0.7])
@pytest.mark.parametrize("frequency", [-0.6, 0.0, 2.0])
def test_presence_and_frequency_penalties_are_openais(presence: float, frequency: float) -> None:
    """Chosen tokens count, each time; those of the prompt do not."""
    made = sampler((1, 2, 2, 3), temperature=0, presence_penalty=presence,
                   frequency_penalty=frequency)  # fmt: skip
    counts: Counter[int] = Counter()
    steady = random_logits(11)  # without penalties the same token would come again and again
    for step in range(25):
        logits = steady + random_logits(step) / 10
        expected = logits.clone()
        for token, times in counts.items():
            expected[token] -= times * frequency + presence
        chosen = made.choose(row(logits)).token_id
        assert chosen == int(expected.argmax())
        counts[chosen] += 1


def test_logit_bias_forces_and_forbids() -> None:
    logits = random_logits(5)
    best = int(logits.argmax())
    assert sampler(temperature=0, logit_bias=((17, 100.0),)).choose(row(logits)).token_id == 17
    forbidden = sampler(temperature=0, logit_bias=((best, -100.0),)).choose(row(logits)).token_id
    assert forbidden == int(logits.topk(2).indices[1])


def test_logprobs_are_those_before_any_penalty() -> None:
    logits = random_logits(6)
    sampling = {
        "temperature": 0,
        "logprobs": 1,
        "presence_penalty": 2.0,
        "logit_bias": ((9, 100.0),),
    }
    choice = sampler(**sampling).choose(row(logits))
    assert choice.token_id == 9
    assert choice.logprob == pytest.approx(float(logits.log_softmax(0)[9]), abs=1e-5)


# Seeds


def tokens(made: Sampler, steps: int = 30) -> list[int]:
    return [made.choose(row(random_logits(step))).token_id for step in range(steps)]


def test_same_seed_gives_the_same_tokens() -> None:
    assert tokens(sampler(seed=42)) == tokens(sampler(seed=42))


def test_other_seed_gives_other_tokens() -> None:
    assert tokens(sampler(seed=42)) != tokens(sampler(seed=43))


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_seed_is_kept(seed: int) -> None:
    assert sampler(seed=seed).seed == seed


def test_drawn_seed_gives_the_same_tokens_again() -> None:
    first = sampler(seed=None)
    assert tokens(sampler(seed=first.seed)) == tokens(first)


def test_drawn_seeds_differ() -> None:
    assert len({sampler(seed=None).seed for _ in range(20)}) > 1


def test_samplers_do_not_disturb_each_other() -> None:
    alone = tokens(sampler(seed=1))
    first, second = sampler(seed=1), sampler(seed=2)
    together = []
    for step in range(30):
        together.append(first.choose(row(random_logits(step))).token_id)
        second.choose(row(random_logits(step)))
        torch.rand(3)  # the global generator does not either
    assert together == alone


# What is never chosen


@pytest.mark.parametrize(
    "sampling", [{"temperature": 0}, {}, {"top_k": 5}, {"min_p": 0.5}], ids=str
)
def test_ids_without_text_are_never_chosen(sampling: dict[str, Any]) -> None:
    logits = random_logits(0)
    logits[150:] += 100
    assert max(drawn(sampling, logits, vocab_size=150)) < 150
    assert 149 in drawn(
        {"temperature": 0}, logits.index_fill(0, torch.tensor(149), 99), vocab_size=150
    )


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {}, {"top_p": 0.5}], ids=str)
def test_end_tokens_are_never_chosen_when_ignored(sampling: dict[str, Any]) -> None:
    logits = random_logits(0)
    logits[list(EOS)] = 100.0
    made = sampler(eos=EOS, ignore_eos=True, **sampling)
    assert not EOS & {made.choose(row(logits)).token_id for _ in range(50)}


def test_end_tokens_are_chosen_otherwise() -> None:
    logits = random_logits(0)
    logits[7] = 100.0
    assert sampler(eos=EOS, temperature=0).choose(row(logits)).token_id == 7


@pytest.mark.parametrize("min_tokens", [0, 1, 4])
def test_end_tokens_wait_for_min_tokens(min_tokens: int) -> None:
    logits = random_logits(0)
    logits[list(EOS)] = 100.0
    made = sampler(eos=EOS, min_tokens=min_tokens)
    chosen = [made.choose(row(logits)).token_id for _ in range(min_tokens + 3)]
    assert [token_id in EOS for token_id in chosen] == [False] * min_tokens + [True] * 3


def test_no_end_tokens_are_fine() -> None:
    logits = random_logits(0)
    chosen = sampler(ignore_eos=True, temperature=0).choose(row(logits))
    assert chosen.token_id == int(logits.argmax())


@pytest.mark.parametrize("sampling", [{"ignore_eos": True}, {"min_tokens": 5}], ids=str)
def test_end_token_outside_of_the_vocabulary_is_no_error(sampling: dict[str, Any]) -> None:
    """generation_config.json is not checked against the weights; an IndexError here would end
    the engine's thread."""
    logits = random_logits(0)
    made = sampler(eos=frozenset({VOCAB, VOCAB + 5}), temperature=0, **sampling)
    assert made.choose(row(logits)).token_id == int(logits.argmax())


# Log-probabilities


def test_logprobs_are_absent_unless_requested() -> None:
    chosen = sampler().choose(row(random_logits(0)))
    assert (chosen.logprob, chosen.top) == (None, ())


@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_logprobs_are_the_models_own(count: int) -> None:
    """They are the model's, before the penalty, the temperature and the filters."""
    logits = random_logits(0)
    expected = logits.log_softmax(0)
    made = sampler((1, 2, 3), temperature=0.3, top_k=3, repetition_penalty=2.0, logprobs=count)
    chosen = made.choose(row(logits))
    assert chosen.logprob == pytest.approx(float(expected[chosen.token_id]))
    best = expected.argsort(descending=True)[:count].tolist()
    assert [token_id for token_id, _ in chosen.top] == best
    assert [value for _, value in chosen.top] == pytest.approx(expected[best].tolist())


def test_logprobs_leave_out_ids_without_text() -> None:
    logits = random_logits(0)
    logits[150:] = 50.0
    chosen = sampler(vocab_size=150, logprobs=20).choose(row(logits))
    assert max(token_id for token_id, _ in chosen.top) < 150
    assert chosen.logprob == pytest.approx(float(logits[:150].log_softmax(0)[chosen.token_id]))


def test_requesting_logprobs_changes_no_token() -> None:
    assert tokens(sampler(logprobs=3)) == tokens(sampler())


# Values out of range


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": float("nan")},
        {"min_p": -0.1}, {"min_p": 1.1}, {"min_p": float("nan")},
        {"repetition_penalty": 0.0}, {"repetition_penalty": -1.0},
        {"repetition_penalty": float("nan")}, {"repetition_penalty": float("inf")},
        {"max_tokens": 0}, {"min_tokens": -1},
        {"seed": -1}, {"seed": 2**63},
        {"logprobs": -1}, {"logprobs": 21},
        {"stop": ("",)},
        {"presence_penalty": 2.1}, {"presence_penalty": float("nan")},
        {"frequency_penalty": -2.1}, {"frequency_penalty": float("nan")},
        {"logit_bias": ((1, 101.0),)}, {"logit_bias": ((-1, 1.0),)},
        {"logit_bias": ((1, float("nan")),)}, {"logit_bias": tuple((i, 1.0) for i in range(1001))},
        {"stop_token_ids": tuple(range(1001))},
    ],
    ids=str,
)  # fmt: skip
def test_value_out_of_range_is_refused_by_name(sampling: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        Sampling(**sampling)
    name = next(iter(sampling))
    assert name in caught.value.message or name.split("_")[0] in caught.value.message
    assert caught.value.http_status == 400
