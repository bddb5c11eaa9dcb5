"""Linear layers: int8 equals float within its rounding, and layers are filled part by part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.layers.linear import (
    ADJACENT_COLUMNS,
    BLOCK_ROWS,
    QUANTIZE_ROWS,
    BitsAndBytesLinear,
    FloatLinear,
    Int8Linear,
    Linear,
    make_linear,
    quantize_rows,
)

SIZES = [(48, 112), (64, 3), (32, 1), (128, 97), (576, 192), (7, 17), (33, 17)]
ROWS = [1, 2, 9, 40]

Make = Callable[[int, int, torch.dtype, str], Linear]


def random_weight(out_features: int, in_features: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_features, in_features, generator=generator)
    return weight * torch.logspace(-3, 1, out_features)[:, None]  # rows of different magnitude


def random_input(rows: int, in_features: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, in_features, generator=torch.Generator().manual_seed(seed))


def int8(weight: Tensor) -> Int8Linear:
    layer = Int8Linear(weight.shape[1], weight.shape[0], torch.float32, "cpu")
    layer.put(0, weight)
    return layer


def worst_error(x: Tensor, weight: Tensor) -> Tensor:
    """The largest possible error of y = x W^T, [rows, out_features].

    The error of a weight is at most half a step of its row's scale; that of y is at most the sum
    of |x| times that, and float32's own rounding.
    """
    scale = weight.abs().amax(dim=1) / 127
    quantized = x.abs().sum(dim=1, keepdim=True) * scale / 2
    magnitude = functional.linear(x.abs(), weight.abs()) + quantized
    return quantized + magnitude * 1e-5


# quantize_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_quantised_rows_are_within_half_a_step(dtype: torch.dtype) -> None:
    weight = random_weight(50, 64).to(dtype)
    values, scale = quantize_rows(weight)
    assert (values.dtype, scale.dtype) == (torch.int8, torch.float32)
    assert (values.shape, scale.shape) == (weight.shape, (50,))
    error = (values.float() * scale[:, None] - weight.float()).abs()
    assert bool((error <= scale[:, None] * 0.50001).all())


def test_range_of_int8_is_used_and_symmetric() -> None:
    values, scale = quantize_rows(torch.tensor([[-2.0, 1.0, 0.0], [0.5, 0.25, -0.1]]))
    assert values.tolist() == [[-127, 64, 0], [127, 64, -25]]
    assert scale.tolist() == pytest.approx([2 / 127, 0.5 / 127])


def test_values_on_the_grid_come_back_exactly() -> None:
    steps = torch.arange(-127, 128, dtype=torch.float32)[None]
    values, scale = quantize_rows(steps * 0.5)
    assert torch.equal(values, steps.to(torch.int8))
    assert torch.equal(values * scale[:, None], steps * 0.5)


def test_quantising_again_changes_nothing() -> None:
    values, scale = quantize_rows(random_weight(20, 32))
    again, _ = quantize_rows(values * scale[:, None])
    assert torch.equal(again, values)


def test_zero_rows_stay_zero() -> None:
    weight = random_weight(4, 16)
    weight[1] = 0
    values, scale = quantize_rows(weight)
    assert float(scale[1]) == 0.0
    assert not values[1].any()
    assert bool(scale.isfinite().all())


def test_row_does_not_change_another() -> None:
    weight = random_weight(4, 16)
    alone, _ = quantize_rows(weight[2:3])
    weight[3] *= 1000
    assert torch.equal(quantize_rows(weight)[0][2:3], alone)


# The int8 layer


@pytest.mark.parametrize(("in_features", "out_features"), SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_int8_is_float_within_its_rounding(in_features: int, out_features: int, rows: int) -> None:
    weight = random_weight(out_features, in_features)
    x = random_input(rows, in_features)
    y = int8(weight)(x)
    assert y.shape == (rows, out_features)
    assert y.dtype == x.dtype
    error = (y - functional.linear(x, weight)).abs()
    assert bool((error <= worst_error(x, weight)).all())


@pytest.mark.parametrize("rows", [1, 9])
def test_bound_detects_one_wrong_weight(rows: int) -> None:
    """It shows that the test above can fail: a weight with the wrong sign exceeds the bound."""
    weight = random_weight(48, 64)
    layer = int8(weight)
    position = int(weight[7].abs().argmax())
    layer.packed[
        7 // BLOCK_ROWS, position // ADJACENT_COLUMNS, 7 % BLOCK_ROWS, position % ADJACENT_COLUMNS
    ] *= -1
    x = torch.zeros(rows, 64)
    x[:, position] = 1.0
    error = (layer(x) - functional.linear(x, weight)).abs()
    assert bool((error[:, 7] > worst_error(x, weight)[:, 7]).all())


@pytest.mark.parametrize("rows", ROWS)
def test_weights_on_the_grid_are_exact(rows: int) -> None:
    """No weight is rounded and nothing cancels."""
    weight = torch.randint(1, 128, (16, 64), generator=torch.Generator().manual_seed(0)).float()
    weight[:, 0] = 127
    scale = torch.logspace(-3, 1, 16)
    x = random_input(rows, 64).abs()
    y = int8(weight * scale[:, None])(x)
    torch.testing.assert_close(y, functional.linear(x, weight) * scale, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [1, 9])
def test_rows_of_a_batch_are_independent(rows: int) -> None:
    layer = int8(random_weight(48, 64))
    x = random_input(rows, 64)
    changed = x.clone()
    changed[0] = 100.0
    assert torch.equal(layer(changed)[1:], layer(x)[1:])


@pytest.mark.parametrize("rows", [1, 9])
def test_zero_rows_of_weights_give_zero(rows: int) -> None:
    weight = random_weight(8, 32)
    weight[3] = 0
    y = int8(weight)(random_input(rows, 32))
    assert not y[:, 3].any()
    assert bool(y.isfinite().all())


@pytest.mark.parametrize("rows", [1, 9])
def test_output_has_the_type_of_the_input(rows: int) -> None:
    layer = Int8Linear(32, 16, torch.bfloat16, "cpu")
    layer.put(0, random_weight(16, 32))
    assert layer(random_input(rows, 32).bfloat16()).dtype == torch.bfloat16


# What all kinds have in common


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
def test_parts_may_be_put_in_any_order(make: Make) -> None:
    weight = random_weight(30, 32)
    at_once = make(32, 30, torch.float32, "cpu")
    at_once.put(0, weight)
    parts = make(32, 30, torch.float32, "cpu")
    for start, stop in ((20, 30), (0, 5), (5, 20)):
        parts.put(start, weight[start:stop])
    for rows in (1, 9):
        x = random_input(rows, 32)
        assert torch.equal(parts(x), at_once(x))
    ids = torch.arange(30)
    assert torch.equal(parts.rows(ids), at_once.rows(ids))


def test_more_rows_than_are_quantised_at_once() -> None:
    weight = random_weight(2 * QUANTIZE_ROWS + 5, 8)
    layer = Int8Linear(8, len(weight) + 3, torch.float32, "cpu")
    layer.put(3, weight)
    values, scale = quantize_rows(weight)
    assert torch.equal(layer.unpacked()[3:, :8], values)
    assert torch.equal(layer.scale[3 : len(weight) + 3], scale)


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
@pytest.mark.parametrize("rows", [1, 9])
def test_bias_is_added(make: Make, rows: int) -> None:
    weight, x = random_weight(12, 32), random_input(rows, 32)
    bias = torch.arange(12, dtype=torch.float32)
    plain, biased = (make(32, 12, torch.float32, "cpu") for _ in range(2))
    plain.put(0, weight)
    biased.put(0, weight)
    biased.put_bias(0, bias)
    torch.testing.assert_close(biased(x), plain(x) + bias)


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
def test_bias_of_one_part_leaves_the_others_without(make: Make) -> None:
    """As in Qwen-like relatives where q, k and v have one and share a layer."""
    weight, x = random_weight(12, 32), random_input(2, 32)
    plain, biased = (make(32, 12, torch.float32, "cpu") for _ in range(2))
    plain.put(0, weight)
    biased.put(0, weight)
    biased.put_bias(4, torch.full((3,), 7.0, dtype=torch.bfloat16))
    expected = plain(x)
    expected[:, 4:7] += 7
    torch.testing.assert_close(biased(x), expected)


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
def test_rows_are_the_weights_as_an_embedding(make: Make) -> None:
    weight = random_weight(20, 32)
    layer = make(32, 20, torch.float32, "cpu")
    layer.put(0, weight)
    ids = torch.tensor([19, 0, 0, 7])
    rows = layer.rows(ids)
    assert rows.shape == (4, 32)
    step = weight.abs().amax(dim=1)[ids, None] / 127
    limit = torch.zeros_like(step) if make is FloatLinear else step * 0.50001
    assert bool(((rows - weight[ids]).abs() <= limit).all())


def test_rows_have_the_type_of_the_activations() -> None:
    for make in (FloatLinear, Int8Linear):
        layer = make(32, 4, torch.bfloat16, "cpu")
        layer.put(0, random_weight(4, 32))
        assert layer.rows(torch.tensor([1])).dtype == torch.bfloat16


def test_float_layer_is_torchs_linear() -> None:
    weight, x = random_weight(12, 32), random_input(3, 32)
    layer = FloatLinear(32, 12, torch.float32, "cpu")
    layer.put(0, weight.double())
    assert torch.equal(layer(x), functional.linear(x, weight))


@pytest.mark.parametrize("make", [FloatLinear, Int8Linear])
def test_layer_copies_the_checkpoint(make: Make) -> None:
    """A view would keep the whole file mapped, and change with it."""
    weight, bias = random_weight(4, 32), torch.ones(4)
    layer = make(32, 4, torch.float32, "cpu")
    layer.put(0, weight)
    layer.put_bias(0, bias)
    before = layer(random_input(1, 32))
    weight.zero_()
    bias.zero_()
    assert torch.equal(layer(random_input(1, 32)), before)


# Which kind is made


@pytest.mark.parametrize(
    ("quantization", "device", "embedding", "kind"),
    [
        ("none", "cpu", False, FloatLinear),
        ("8bit", "cpu", False, Int8Linear),
        ("8bit", "cpu", True, Int8Linear),
        ("none", "cpu", True, FloatLinear),
    ],
)
def test_kind_for_the_cpu(quantization: str, device: str, embedding: bool, kind: type) -> None:
    layer = make_linear(
        32, 4, quantization=quantization, dtype=torch.float32, device=device, embedding=embedding
    )
    assert type(layer) is kind
    assert (layer.in_features, layer.out_features) == (32, 4)


# On CUDA

needs_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU"),
]


class TestBitsAndBytes:
    pytestmark = needs_cuda

    @pytest.mark.parametrize(("bits", "max_error"), [(8, 0.03), (4, 0.2)])
    @pytest.mark.parametrize("rows", [1, 5, 40])
    def test_product_is_floats_within_the_quantisation(
        self, bits: int, max_error: float, rows: int
    ) -> None:
        weight, x = torch.randn(96, 64), torch.randn(rows, 64).half().cuda()
        layer = BitsAndBytesLinear(64, 96, torch.float16, "cuda", bits)
        for start in (48, 0):
            layer.put(start, weight[start : start + 48])
        layer.put_bias(0, torch.ones(96))
        y = layer(x)
        expected = functional.linear(x.float(), weight.cuda()) + 1
        assert y.dtype == torch.float16
        assert float((y - expected).norm() / expected.norm()) < max_error

    @pytest.mark.parametrize(
        ("quantization", "embedding", "kind"),
        [
            ("none", False, FloatLinear),
            ("8bit", False, BitsAndBytesLinear),
            ("4bit", False, BitsAndBytesLinear),
            ("8bit", True, FloatLinear),
            ("4bit", True, FloatLinear),
        ],
    )
    def test_kind(self, quantization: str, embedding: bool, kind: type) -> None:
        layer = make_linear(
            64, 96, quantization=quantization, dtype=torch.float16, device="cuda",
            embedding=embedding,
        )  # fmt: skip
        assert type(layer) is kind


@pytest.mark.parametrize("bits", [8, 4])
def test_bitsandbytes_layer_without_all_of_its_weights_says_so(bits: int) -> None:
    layer = BitsAndBytesLinear(64, 96, torch.float16, "cpu", bits)
    layer.put(0, torch.randn(90, 64))
    with pytest.raises(RuntimeError, match="6 rows of this layer have no weights yet"):
        layer(torch.randn(1, 64))
