"""Compiled int8 products of many sizes, compared with float64, and independent of the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from numba import config
from torch import Tensor

from model.layers.linear import Int8Linear

Product = Callable[[Int8Linear, Tensor], Tensor]

SIZES = [(1, 1), (16, 8), (48, 112), (33, 17), (576, 40), (640, 1009), (2064, 70)]
ROWS = [1, 2, 3, 4, 5, 6, 7, 11, 16, 40]
STEP = 2**-15  # the error of an activation is at most half of it times its row's largest


def multiplier() -> Product:
    """A function that quantises rows and multiplies them chunk by chunk, as a forward does."""
    import numpy as np

    from model.layers.kernels import records
    from model.layers.kernels.int8_gemm import count_chunks, multiply, quantize
    from model.layers.kernels.intrinsics import compiled, float32_array, int16_array

    @compiled
    def run(linear, x, width, rows, values, scales, output):  # type: ignore[no-untyped-def]
        for row in range(rows):
            quantized = int16_array(values + 2 * row * linear.in_features, linear.in_features)
            float32_array(scales, rows)[row] = quantize(
                float32_array(x + 4 * row * width, width), quantized
            )
        for chunk in range(count_chunks(linear.in_features, linear.out_features)):
            multiply(linear, chunk, rows, values, scales, output, linear.out_features)

    def product(layer: Int8Linear, x: Tensor) -> Tensor:
        x, (rows, width) = x.contiguous(), x.shape
        record, outputs = np.zeros(1, records.LINEAR), len(layer.scale)
        inputs = layer.packed.shape[1] * layer.packed.shape[3]
        parts = layer.packed, layer.scale, layer.padded_bias
        record[0] = *(part.data_ptr() for part in parts), inputs, outputs
        values = torch.empty(rows, inputs, dtype=torch.int16)
        scales, y = torch.empty(rows), torch.empty(rows, outputs)
        addresses = (t.data_ptr() for t in (values, scales, y))
        run(record[0], x.data_ptr(), width, rows, *addresses)
        return y[:, : layer.out_features]

    return product


@pytest.fixture(scope="module")
def product(machine_code: Path) -> Product:
    config.CACHE_DIR = str(machine_code)
    return multiplier()


def int8(weight: Tensor) -> Int8Linear:
    layer = Int8Linear(weight.shape[1], weight.shape[0], torch.float32, "cpu")
    layer.put(0, weight)
    return layer


def exact(layer: Int8Linear, x: Tensor) -> Tensor:
    """The product of the quantised weights in float64."""
    weight = layer.unpacked()[:, : layer.in_features].double()
    return x.double() @ weight.T * layer.scale[: layer.out_features].double()


def bound(layer: Int8Linear, x: Tensor) -> Tensor:
    """How much rounding the activations to 16 bits can change each output."""
    weight = layer.unpacked()[:, : layer.in_features].double().abs()
    largest = x.double().abs().amax(dim=1, keepdim=True)
    # Rows with many large values get a coarser scale, so that no sum leaves 32 bits.
    coarsest = torch.maximum(largest * STEP, x.double().abs().sum(1, keepdim=True) * 127 / 2**31)
    scale = layer.scale[: layer.out_features].double()
    return (coarsest * 0.52 * weight.sum(1) + x.double().abs() @ weight.T * 1e-6) * scale + 1e-30


@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
@pytest.mark.parametrize("rows", ROWS)
def test_product_is_exact_within_16_bits(
    product: Product, inputs: int, outputs: int, rows: int
) -> None:
    torch.manual_seed(inputs + outputs + rows)
    layer, x = (
        int8(torch.randn(outputs, inputs)),
        torch.randn(rows, inputs) * torch.logspace(-4, 4, rows)[:, None],
    )
    y = product(layer, x)
    assert y.shape == (rows, outputs)
    assert bool(((y - exact(layer, x)).abs() <= bound(layer, x)).all())


def test_bound_detects_one_wrong_weight(product: Product) -> None:
    torch.manual_seed(0)
    layer, x = int8(torch.randn(24, 48)), torch.randn(5, 48)
    before = exact(layer, x)
    layer.packed[1, 2, 3, 1] ^= 1
    assert bool(((product(layer, x) - before).abs() > bound(layer, x)).any())


@pytest.mark.parametrize("rows", ROWS)
def test_row_is_the_same_alone_and_in_a_batch(product: Product, rows: int) -> None:
    layer, x = int8(torch.randn(77, 100)), torch.randn(rows, 100)
    together = product(layer, x)
    alone = torch.cat([product(layer, row[None]) for row in x])
    assert torch.equal(together, alone)


def test_largest_weights_and_activations_stay_within_32_bits(product: Product) -> None:
    """13824 columns, as in a 13B, all of them at their largest: the largest possible sum."""
    layer, x = int8(torch.ones(8, 13824)), torch.ones(2, 13824)
    x[1] *= -1e30
    torch.testing.assert_close(product(layer, x), exact(layer, x).float(), rtol=1e-3, atol=0)


def test_bias_is_added(product: Product) -> None:
    layer, x = int8(torch.randn(12, 32)), torch.randn(6, 32)
    plain = product(layer, x).clone()
    layer.put_bias(4, torch.full((3,), 7.0))
    plain[:, 4:7] += 7
    torch.testing.assert_close(product(layer, x), plain)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_not_a_number_makes_its_own_row_nan(product: Product, bad: float) -> None:
    layer, x = int8(torch.randn(24, 48)), torch.randn(6, 48)
    clean = product(layer, x).clone()
    x[2, 5] = bad
    y = product(layer, x)
    assert bool(y[2].isnan().all())
    others = [0, 1, 3, 4, 5]
    assert torch.equal(y[others], clean[others])


def test_zero_rows_give_zero(product: Product) -> None:
    layer, x = int8(torch.randn(24, 48)), torch.randn(3, 48)
    x[1] = 0
    assert not product(layer, x)[1].any()


@pytest.mark.parametrize("size", [1e-38, 1e30])
def test_very_small_and_very_large_activations_keep_their_precision(
    product: Product, size: float
) -> None:
    torch.manual_seed(5)
    layer, x = int8(torch.randn(24, 48)), torch.randn(3, 48) * size
    y = product(layer, x)
    assert bool(((y - exact(layer, x)).abs() <= bound(layer, x) + 1e-40).all())


def test_strided_input_is_read_correctly(product: Product) -> None:
    layer, x = int8(torch.randn(24, 48)), torch.randn(6, 96)
    assert torch.equal(product(layer, x[:, ::2]), product(layer, x[:, ::2].clone()))
