"""LoRA by peft, trained by transformers' Trainer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.base_loader import ComputeConfig
from training.collator import collate, dataset
from training.encoding import Example
from training.hyperparameters import Hyperparameters
from training.run_folder import outcome

# Chats that are learned between two measurements, for each that is measured with: it costs a third
# of learning it, so measuring takes a twenty-fifth of the time.
LEARNED_PER_MEASURED = 8
MIN_INTERVAL = 10  # steps
KEPT = 2  # checkpoints: the newest and the best


@dataclass(frozen=True)
class TrainerConfig:
    """A training: what is learned, what is measured with, and how."""

    learned: Sequence[Example]
    held_out: Sequence[Example]
    recipe: Hyperparameters
    machine: ComputeConfig

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(len(self.learned) / self.recipe.batch_size)

    @property
    def interval(self) -> int:
        """Steps between two checkpoints, and two measurements: an epoch or less."""
        due = math.ceil(LEARNED_PER_MEASURED * len(self.held_out) / self.recipe.batch_size)
        return min(self.steps_an_epoch, max(MIN_INTERVAL, due))


def add_lora(base: Any, recipe: Hyperparameters, start: Path | None) -> Any:
    """`base` with a new adapter, or with the one in `start` to go on with."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(recipe.seed)
    if start is not None:
        return PeftModel.from_pretrained(base, start, is_trainable=True)
    config = LoraConfig(
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=list(recipe.lora_target_modules),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def build_trainer(
    model: Any, plan: TrainerConfig, folder: Path, callbacks: Sequence[Any], wandb: dict[str, str]
) -> Any:
    """A Trainer that keeps its checkpoints in `folder`."""
    from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

    os.environ.update({name.upper(): value for name, value in wandb.items()})
    patience = plan.recipe.early_stopping_patience
    early = [EarlyStoppingCallback(patience)] if patience and plan.held_out else []
    trainer = Trainer(
        model=model,
        args=_arguments(plan, folder, wandb),
        train_dataset=dataset(plan.learned),
        eval_dataset=dataset(plan.held_out) if plan.held_out else None,
        data_collator=collate,
        callbacks=[*callbacks, *early],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _arguments(plan: TrainerConfig, folder: Path, wandb: dict[str, str]) -> Any:
    from transformers import TrainingArguments

    recipe, machine = plan.recipe, plan.machine
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.num_epochs,
        per_device_train_batch_size=recipe.micro_batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        per_device_eval_batch_size=1,  # so that the mean is over chats, whatever the batch
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_steps,
        seed=recipe.seed,
        train_sampling_strategy="group_by_length" if recipe.group_by_length else "random",
        gradient_checkpointing=machine.gradient_checkpointing,
        use_cpu=machine.device == "cpu",
        dataloader_pin_memory=machine.device != "cpu",
        eval_strategy="steps" if plan.held_out else "no",
        eval_steps=plan.interval,
        save_strategy="steps",
        save_steps=plan.interval,
        save_total_limit=KEPT,
        load_best_model_at_end=bool(plan.held_out),
        metric_for_best_model="loss",
        greater_is_better=False,
        # Else an early end would be counted from the last interruption on.
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="wandb" if wandb else "none",
        run_name=wandb.get("wandb_run_name"),
        **machine.mixed,
    )
    arguments._n_gpu = min(arguments._n_gpu, 1)  # one row cannot be shared among several
    return arguments


def has_ended_early(trainer: Any) -> bool:
    """Whether it was the lack of better measurements that has ended the training."""
    from transformers import EarlyStoppingCallback

    return any(
        callback.early_stopping_patience_counter >= callback.early_stopping_patience
        for callback in trainer.callback_handler.callbacks
        if isinstance(callback, EarlyStoppingCallback)
    )


def restore(trainer: Any, state: Path) -> None:
    """Have `trainer` stand where the training stood whose end is kept in `state`."""
    from transformers import TrainerState

    trainer.state = TrainerState.load_from_json(str(state))
    trained = outcome(state.parent, vars(trainer.state))
    trainer.model.load_adapter(str(trained), "default", is_trainable=True)


def held_out_loss(trainer: Any, *, base: bool = False) -> float | None:
    """The mean over the held-out chats of a token's mean loss in nats; with `base` the base's
    alone. None if nothing is held out."""
    if trainer.eval_dataset is None:
        return None
    if not base:
        return float(trainer.evaluate()["eval_loss"])
    with trainer.model.disable_adapter():
        return float(trainer.evaluate()["eval_loss"])
