"""Builds the LoRA model with peft and the Trainer of transformers that trains it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from model.cleanup import at_end
from training.base_loader import ComputeConfig
from training.collator import collate, training_rows
from training.encoding import Example
from training.hyperparameters import Hyperparameters
from training.run_folder import best_checkpoint

# Chats to learn between two evaluations, for each held-out chat. Evaluating a chat costs a third of
# learning it, so evaluations take 4 % of the time.
LEARNED_PER_HELD_OUT = 8
MIN_INTERVAL = 10  # steps
MAX_CHECKPOINTS = 2  # the newest and the best


@dataclass(frozen=True)
class TrainerConfig:
    """What is learned, what is evaluated with, and how."""

    learned: Sequence[Example]
    held_out: Sequence[Example]
    hyperparameters: Hyperparameters
    compute: ComputeConfig

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(len(self.learned) / self.hyperparameters.batch_size)

    @property
    def interval(self) -> int:
        """Steps between two evaluations, and two checkpoints: an epoch or less."""
        chats = LEARNED_PER_HELD_OUT * len(self.held_out)
        steps = math.ceil(chats / self.hyperparameters.batch_size)
        return min(self.steps_per_epoch, max(MIN_INTERVAL, steps))


def add_lora(base: Any, hyperparameters: Hyperparameters, start_from: Path | None) -> Any:
    """Adds a new adapter to `base`, or the one in `start_from`, to train it further."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(hyperparameters.seed)
    if start_from is not None:
        return PeftModel.from_pretrained(base, start_from, is_trainable=True)
    config = LoraConfig(
        r=hyperparameters.lora_r,
        lora_alpha=hyperparameters.lora_alpha,
        lora_dropout=hyperparameters.lora_dropout,
        target_modules=list(hyperparameters.lora_target_modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def build_trainer(
    model: Any, config: TrainerConfig, folder: Path, callbacks: Sequence[Any], wandb: dict[str, str]
) -> Any:
    """Builds a Trainer with its checkpoints in `folder`."""
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

    os.environ.update({name.upper(): value for name, value in wandb.items()})
    patience = config.hyperparameters.early_stopping_patience
    early = [EarlyStoppingCallback(patience)] if patience and config.held_out else []
    trainer = Trainer(
        model=model,
        args=_arguments(config, folder, wandb),
        train_dataset=training_rows(config.learned),
        eval_dataset=training_rows(config.held_out) if config.held_out else None,
        data_collator=collate,
        callbacks=[*callbacks, *early],
    )
    trainer.remove_callback(PrinterCallback)
    if wandb:
        at_end(import_module("wandb").finish)  # uploads the rest
    return trainer


def _arguments(config: TrainerConfig, folder: Path, wandb: dict[str, str]) -> Any:
    from transformers import TrainingArguments

    used, compute = config.hyperparameters, config.compute
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=used.num_epochs,
        per_device_train_batch_size=used.micro_batch_size,
        gradient_accumulation_steps=used.accumulation,
        per_device_eval_batch_size=1,  # so that the mean is over chats, with any batch size
        learning_rate=used.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=used.warmup_steps,
        seed=used.seed,
        train_sampling_strategy="group_by_length" if used.group_by_length else "random",
        gradient_checkpointing=compute.gradient_checkpointing,
        use_cpu=compute.device == "cpu",
        dataloader_pin_memory=compute.device != "cpu",
        eval_strategy="steps" if config.held_out else "no",
        eval_steps=config.interval,
        save_strategy="steps",
        save_steps=config.interval,
        save_total_limit=MAX_CHECKPOINTS,
        load_best_model_at_end=bool(config.held_out),
        metric_for_best_model="loss",
        greater_is_better=False,
        # Else early stopping would count from the last interruption on.
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="wandb" if wandb else "none",
        run_name=wandb.get("wandb_run_name"),
        **compute.mixed_precision,
    )
    arguments._n_gpu = min(arguments._n_gpu, 1)  # several GPUs cannot share a batch of one row
    return arguments


def has_ended_early(trainer: Any) -> bool:
    """Whether early stopping has ended the training."""
    from transformers import EarlyStoppingCallback

    return any(
        callback.early_stopping_patience_counter >= callback.early_stopping_patience
        for callback in trainer.callback_handler.callbacks
        if isinstance(callback, EarlyStoppingCallback)
    )


def restore(trainer: Any, state: Path) -> None:
    """Restores `trainer` to the end of a training, from its saved `state`."""
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(state))
    checkpoint = best_checkpoint(state.parent, vars(trainer.state))
    trainer.model.load_adapter(str(checkpoint), "default", is_trainable=True)


def held_out_loss(trainer: Any, *, base: bool = False) -> float | None:
    """The loss in nats: each held-out chat's mean over its tokens, and the mean over the chats.

    With `base` that of the base alone. None if no chats are held out.
    """
    if trainer.eval_dataset is None:
        return None
    if not base:
        return float(trainer.evaluate()["eval_loss"])
    with trainer.model.disable_adapter():
        return float(trainer.evaluate()["eval_loss"])
