"""Causal grouped-query attention of one sequence over its own keys and values."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of the last `new` positions over all of them.

    Args:
        q: [new, heads, head_dim], rotated.
        k, v: [kv_heads, length, head_dim] with length >= new; the last `new` are those of `q`.

    Returns:
        [new, heads * head_dim]
    """
    new, heads, head_dim = q.shape
    k, v = k.to(q.dtype), v.to(q.dtype)
    kv_heads, length, _ = k.shape
    if new == 1:
        # The heads of a group take the place of query positions: no repetition, no mask.
        grouped = q.view(kv_heads, heads // kv_heads, head_dim)
        return functional.scaled_dot_product_attention(grouped[None], k[None], v[None]).view(1, -1)
    repeats = heads // kv_heads
    out = functional.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.repeat_interleave(repeats, dim=0)[None],
        v.repeat_interleave(repeats, dim=0)[None],
        attn_mask=None if new == length else _causal_mask(new, length, q.device),
        is_causal=new == length,
    )
    return out[0].transpose(0, 1).reshape(new, heads * head_dim)


def _causal_mask(new: int, length: int, device: torch.device) -> Tensor:
    """[new, length], True where a query may see a key."""
    all_true = torch.ones(new, length, dtype=torch.bool, device=device)
    return all_true.tril(diagonal=length - new)
