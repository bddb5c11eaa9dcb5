"""The delta of low-rank updates, in full precision and in 8 bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.layers.lora import FloatPair, Int8Pair, int8_pair
from tests.model.layers.conftest import GROUPED, make_model

RANKS = [1, 3, 8, 16, 17, 64]


def matrices(rank: int, ins: int = 60, outs: int = 77) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return (
        torch.randn(rank, ins, generator=generator),
        torch.randn(outs, rank, generator=generator),
    )


def test_float_pair_is_the_formula() -> None:
    (a, b), x = matrices(3), torch.randn(5, 60)
    torch.testing.assert_close(FloatPair(a, b, 0.5).delta(x), 0.5 * x @ a.T @ b.T)


@pytest.mark.parametrize("rank", RANKS)
def test_int8_pair_is_close_to_the_float_pair(rank: int) -> None:
    (a, b), x = matrices(rank), torch.randn(5, 60)
    exact = FloatPair(a, b, 2.0).delta(x)
    error = int8_pair(a, b, 2.0).delta(x) - exact
    assert float(error.norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("factor", [1e-30, 1e-6, 1e6])
def test_int8_pair_does_not_depend_on_the_size_of_the_weights(factor: float) -> None:
    (a, b), x = matrices(8), torch.randn(5, 60)
    delta, expected = (int8_pair(a * size, b, 2.0 / size).delta(x) for size in (factor, 1.0))
    # An element near 0 is a sum of large ones, with their rounding.
    largest = float(expected.abs().max())
    torch.testing.assert_close(delta, expected, rtol=0, atol=5e-7 * largest)


def test_a_rank_of_zeros_adds_nothing() -> None:
    (a, b), x = matrices(4), torch.randn(5, 60)
    b[:, 1] = 0
    a[2] = 0
    nonzero = [0, 3]
    full, without = int8_pair(a, b, 1.0), int8_pair(a[nonzero], b[:, nonzero], 1.0)
    torch.testing.assert_close(full.delta(x), without.delta(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_int8_pair_accepts_weights_of_16_bits(dtype: torch.dtype) -> None:
    a, b = matrices(4)
    pair = int8_pair(a.to(dtype), b.to(dtype), 1.0)
    assert (pair.a.dtype, pair.b.dtype, pair.scale.dtype) == (torch.int8, torch.int8, torch.float32)
    assert pair.nbytes == 60 * 16 + 77 * 4 + 4 * 4  # the rank padded to 16, on one side


def test_adapters_of_an_8_bit_model_are_int8_pairs() -> None:
    model = make_model(GROUPED)
    assert isinstance(model.make_lora_pair(*matrices(3), 1.0), Int8Pair)


def test_adapters_of_a_float_model_are_copied() -> None:
    model = make_model(GROUPED)
    model.quantization = "none"
    a, b = matrices(3)
    pair = model.make_lora_pair(a, b, 0.5)
    assert isinstance(pair, FloatPair)
    assert torch.equal(pair.a, a)
    assert torch.equal(pair.b, b)
    a.zero_()  # the pair has a copy
    assert pair.a.any()
