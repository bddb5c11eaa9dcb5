"""Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864), half-split layout.

The frequencies, with every scaling that a config may ask for, come from transformers; this module
only applies them to ragged batches.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RotaryTable:
    """cos and sin for every position below `length`, in float32.

    Args:
        inv_freq: [head_dim / 2] inverse frequencies in radians a position.
        scaling: factor on cos and sin (1 unless the scaling method has one).
        length: number of positions.
    """

    def __init__(self, inv_freq: Tensor, scaling: float, length: int) -> None:
        angles = torch.arange(length, device=inv_freq.device)[:, None].float() * inv_freq.float()
        angles = torch.cat((angles, angles), dim=-1)
        self.cos = angles.cos() * scaling
        self.sin = angles.sin() * scaling

    def at(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin at `positions` [rows], each [rows, 1, head_dim]."""
        cos = self.cos[positions][:, None].to(dtype)
        sin = self.sin[positions][:, None].to(dtype)
        return cos, sin


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate `x` [rows, heads, head_dim] by the angles of `RotaryTable.at`."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin
