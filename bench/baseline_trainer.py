"""The training that `training.py` compares with: transformers' Trainer with peft and padding.

`python -m bench.baseline_trainer FILE` reads the job as JSON: the base's folder, the examples, and
the hyperparameters of `finetune.py`. It prints the seconds of the training alone and its loss.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

IGNORED = -100


def pad_batch(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch whose rows are padded at the end to the longest one."""

    def padded(values: list[list[int]], padding: int) -> torch.Tensor:
        return pad_sequence([torch.tensor(row) for row in values], True, padding)

    return {
        "input_ids": padded([row["input_ids"] for row in rows], 0),
        "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
        "labels": padded([row["labels"] for row in rows], IGNORED),
    }


def train(job: dict[str, Any]) -> None:
    torch.set_num_threads(job["threads"])
    recipe = job["recipe"]
    set_seed(recipe["seed"])
    base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=getattr(torch, job["dtype"]))
    lora = LoraConfig(
        r=recipe["lora_r"], lora_alpha=recipe["lora_alpha"], lora_dropout=recipe["lora_dropout"],
        target_modules=recipe["lora_target_modules"], task_type="CAUSAL_LM",
    )  # fmt: skip
    trainer = Trainer(
        model=get_peft_model(base, lora),
        args=TrainingArguments(
            output_dir=job["output"], num_train_epochs=recipe["num_epochs"],
            per_device_train_batch_size=recipe["batch_size"], per_device_eval_batch_size=1,
            learning_rate=recipe["learning_rate"], lr_scheduler_type="cosine",
            warmup_steps=recipe["warmup_steps"], seed=recipe["seed"], use_cpu=True,
            eval_strategy="steps", eval_steps=job["interval"], save_strategy="steps",
            save_steps=job["interval"], save_total_limit=2, load_best_model_at_end=True,
            logging_steps=1, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
            remove_unused_columns=False, prediction_loss_only=True,
        ),
        train_dataset=job["learned"], eval_dataset=job["held_out"], data_collator=pad_batch,
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    loss = trainer.evaluate()["eval_loss"]
    trainer.save_model(job["output"])
    print(json.dumps({"train_seconds": seconds, "loss": loss}))


if __name__ == "__main__":
    train(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
