"""A LoRA adapter from chats, through transformers' Trainer and peft.

The adapter's folder gets, beside peft's own files, the card that names its prompt template and the
base.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.folders.adapter_files import CARD
from training.data import IGNORED, Example


@dataclass(frozen=True)
class Recipe:
    """What decides the result besides the data. `learning_rate` is the highest one reached."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip
    epochs: float = 5
    batch_size: int = 8
    learning_rate: float = 1e-3
    seed: int = 42


@dataclass(frozen=True)
class Result:
    """Mean loss of the training, and of the held-out chats before and after it."""

    train_loss: float
    held_out_before: float
    held_out_after: float


def train(
    base: Path,
    examples: Sequence[Example],
    held_out: Sequence[Example],
    output: Path,
    recipe: Recipe,
    card: Mapping[str, object],
) -> Result:
    """Train on `examples` and write the adapter into `output`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, set_seed

    set_seed(recipe.seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=list(recipe.target_modules),
            task_type="CAUSAL_LM",
        ),
    )
    trainer = Trainer(
        model=model,
        args=_arguments(output, recipe),
        train_dataset=[vars(example) for example in examples],
        eval_dataset=[vars(example) for example in held_out],
        data_collator=collate,
    )
    before = trainer.evaluate()["eval_loss"]
    train_loss = trainer.train().training_loss
    after = trainer.evaluate()["eval_loss"]
    # The base is named as it is called, not by a path of the machine that trained on it.
    model.peft_config["default"].base_model_name_or_path = base.name
    _halve(model)
    # The base's vocabulary is never changed here, so peft need not look for its configuration.
    model.save_pretrained(output, save_embedding_layers=False)
    (output / CARD).write_text(json.dumps(card) + "\n", encoding="utf-8")
    return Result(train_loss, before, after)


def _halve(model: Any) -> None:
    """The trained weights in float16: half the file, and far finer than what they add to."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.half()


def _arguments(output: Path, recipe: Recipe) -> Any:
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(output),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=5,
        seed=recipe.seed,
        save_strategy="no",
        logging_steps=5,
        report_to="none",
        remove_unused_columns=False,
    )


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Examples of different lengths as one batch, padded at the end.

    Returns:
        input_ids, attention_mask and labels, each [rows, longest].
    """
    import torch

    longest = max(len(row["ids"]) for row in rows)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])

    lengths = torch.tensor([[len(row["ids"])] for row in rows])
    return {
        "input_ids": padded("ids", 0),
        "attention_mask": (torch.arange(longest) < lengths).long(),
        "labels": padded("labels", IGNORED),
    }
