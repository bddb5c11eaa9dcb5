"""Names of a LLaMA checkpoint's tensors in the Hugging Face layout, and the sizes of its matrices.

Loading, converting, adapters, training and the kernels all use these names. Imports nothing.
"""

from __future__ import annotations

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"  # absent where the head is tied to the embedding

# The parts of a decoder layer. Compiled code has its linear layers in the order of LINEAR_MODULES.
QKV_MODULES = ("q_proj", "k_proj", "v_proj")  # have the same input
ATTENTION_MODULES = (*QKV_MODULES, "o_proj")
GATE_UP_MODULES = ("gate_proj", "up_proj")  # have the same input
MLP_MODULES = (*GATE_UP_MODULES, "down_proj")
LINEAR_MODULES = ATTENTION_MODULES + MLP_MODULES
ATTENTION, MLP = "self_attn", "mlp"
# Their names within the layer, as "self_attn.q_proj".
LINEAR_PATHS = {name: f"{ATTENTION}.{name}" for name in ATTENTION_MODULES} | {
    name: f"{MLP}.{name}" for name in MLP_MODULES
}
INPUT_NORM, POST_ATTENTION_NORM = "input_layernorm", "post_attention_layernorm"


def layer_path(layer: int | str, part: str) -> str:
    """The dotted name of a decoder layer's part, such as "model.layers.3.self_attn.q_proj"."""
    return f"model.layers.{layer}.{part}"


def linear_sizes(
    hidden: int, intermediate: int, heads: int, kv_heads: int, head_dim: int
) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer of a decoder layer, by its name in LINEAR_MODULES."""
    q, kv = heads * head_dim, kv_heads * head_dim
    return {
        "q_proj": (hidden, q),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (q, hidden),
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }
