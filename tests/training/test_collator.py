"""Batches of packed examples: their layout, and that each example is learned as if it was alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from model.types import Message
from training.collator import SIZE_MULTIPLE, collate, training_rows
from training.dataset import TrainingChat
from training.encoding import IGNORED, Example

CHAT = TrainingChat(1, (Message("assistant", ""),))
EXAMPLES = [
    Example(CHAT, (5, 6, 7, 8, 9), (IGNORED, IGNORED, 7, 8, IGNORED)),
    Example(CHAT, (5, 6), (5, 6)),
    Example(CHAT, (30, 31, 32, 33, 34, 35, 36), (IGNORED, IGNORED, IGNORED, 33, IGNORED, 35, 36)),
]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return get_peft_model(base, config)


def test_collate_packs_examples_into_one_padded_row_with_logits_for_labels_only() -> None:
    batch = collate(training_rows(EXAMPLES[:2]))
    padding = SIZE_MULTIPLE - 7
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 5, 6] + [0] * padding]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, *range(padding)]]
    assert batch["logits_to_keep"].tolist() == [1, 2, 5] + [0] * (SIZE_MULTIPLE - 3)
    assert batch["labels"].tolist() == batch["shift_labels"].tolist()
    assert batch["labels"].tolist() == [[7, 8, 6] + [IGNORED] * (SIZE_MULTIPLE - 3)]


def test_a_batch_has_the_loss_and_gradients_of_its_examples_alone(model: Any) -> None:
    """Sums over tokens, compared with those of transformers for one example at a time."""
    model.eval()
    model.zero_grad()
    separate_loss = torch.tensor(0.0)
    for example in EXAMPLES:
        labels = torch.tensor([example.labels])
        count = int((labels[:, 1:] != IGNORED).sum())
        separate_loss = (
            separate_loss + count * model(torch.tensor([example.ids]), labels=labels).loss
        )
    separate_loss.backward()
    separate = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    batch_loss = model(**collate(training_rows(EXAMPLES)), num_items_in_batch=1).loss
    batch_loss.backward()
    torch.testing.assert_close(batch_loss, separate_loss, rtol=1e-5, atol=1e-5)
    assert separate
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, separate[name], rtol=1e-4, atol=1e-5)
