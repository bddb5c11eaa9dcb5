"""Examples behind each other in one row teach what they teach alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from model.types import Message
from training.collator import collate, training_rows
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


def test_a_batch_is_one_row_and_asks_for_needed_logits_alone() -> None:
    batch = collate(training_rows(EXAMPLES[:2]))
    filler = 32 - 7
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 5, 6] + [0] * filler]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, *range(filler)]]
    assert batch["logits_to_keep"].tolist() == [1, 2, 5] + [0] * 29
    assert batch["labels"].tolist() == batch["shift_labels"].tolist()
    assert batch["labels"].tolist() == [[7, 8, 6] + [IGNORED] * 29]


def test_loss_and_gradients_are_those_of_the_examples_alone(model: Any) -> None:
    """Sums over tokens, as transformers itself computes them for one example at a time."""
    model.eval()
    model.zero_grad()
    alone = torch.tensor(0.0)
    for example in EXAMPLES:
        labels = torch.tensor([example.labels])
        count = int((labels[:, 1:] != IGNORED).sum())
        alone = alone + count * model(torch.tensor([example.ids]), labels=labels).loss
    alone.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    together = model(**collate(training_rows(EXAMPLES)), num_items_in_batch=1).loss
    together.backward()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert wanted
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(p.grad, wanted[name], rtol=1e-4, atol=1e-5)
