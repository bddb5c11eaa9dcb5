"""Flags of finetune.py, and defaults that follow from the data and the base."""

from __future__ import annotations

import pytest

from model.errors import SettingsError
from model.tensor_names import LINEAR_MODULES
from training.hyperparameters import (
    Hyperparameters,
    held_out_size,
    resolve_hyperparameters,
)
from training.options import read_training_options


def resolve(learned: int, held_out: int, *flags: str, width: int = 5120) -> Hyperparameters:
    options = read_training_options(["--data_path", "d", *flags])
    return resolve_hyperparameters(options.hyperparameters, learned, held_out, width)


def test_a_small_data_set_gets_small_batches_and_a_short_warmup() -> None:
    """alpaca-lora's own defaults give three steps, within a warm-up of a hundred."""
    values = resolve(90, 10)
    assert (values.batch_size, values.micro_batch_size, values.accumulation) == (4, 4, 1)
    assert values.warmup_steps == 4
    assert values.learning_rate == pytest.approx(2.7e-4, abs=1e-5)


def test_a_large_data_set_gets_alpacas_batch_size() -> None:
    values = resolve(49_000, 2000)
    assert (values.batch_size, values.micro_batch_size, values.accumulation) == (128, 4, 32)


def test_one_example_makes_one_step() -> None:
    values = resolve(1, 0)
    assert (values.batch_size, values.warmup_steps) == (1, 1)


def test_single_step_is_not_warmed_up_at_a_rate_of_0() -> None:
    assert resolve(1, 0, "--num_epochs", "1").warmup_steps == 0


def test_a_narrow_base_gets_a_higher_learning_rate() -> None:
    assert resolve(90, 10, width=576).learning_rate == pytest.approx(8e-4, abs=1e-5)


def test_flags_replace_the_defaults() -> None:
    values = resolve(
        90, 10, "--batch-size=12", "--micro_batch_size", "5", "--learning_rate", "1e-5",
        "--warmup_steps=0", "--lora_target_modules", "[q_proj,v_proj]", "--train_on_inputs",
        "--group_by_length=False",
    )  # fmt: skip
    assert (values.batch_size, values.micro_batch_size) == (
        12,
        4,
    )  # micro-batches of a step are equal
    assert (values.learning_rate, values.warmup_steps) == (1e-5, 0)
    assert values.lora_target_modules == ("q_proj", "v_proj")
    assert values.train_on_inputs
    assert not values.group_by_length


@pytest.mark.parametrize(
    ("examples", "expected"), [(1, 0), (2, 1), (9, 1), (100, 10), (52_000, 2000)]
)
def test_one_example_in_ten_is_held_out(examples: int, expected: int) -> None:
    assert held_out_size(None, examples) == expected


def test_a_held_out_size_above_the_data_is_refused() -> None:
    assert held_out_size(99, 100) == 99
    with pytest.raises(SettingsError, match=r"--val_set_size 2000 leaves .* of 100 chats"):
        held_out_size(2000, 100)


def test_flags_are_read_in_alpaca_loras_spelling() -> None:
    options = read_training_options(
        ["--data_path", "d", "--add_eos_token", "--train_on_inputs", "False", "--batch_size=8",
         "--lora_target_modules", "['k_proj', 'q_proj']"]
    )  # fmt: skip
    assert options.hyperparameters["train_on_inputs"] is False
    assert options.hyperparameters["lora_target_modules"] == ("q_proj", "k_proj")
    assert options.output_dir.name == "lora-alpaca"
    every_module = read_training_options(["--data_path", "d", "--lora_target_modules", "all"])
    assert every_module.hyperparameters["lora_target_modules"] == LINEAR_MODULES


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_epochs", "0"], "is not a number above 0"),
        (["--num_epochs", "nan"], "is not a number above 0"),
        (["--learning_rate", "x"], "is not a number"),
        (["--batch_size", "0"], "must be above 0"),
        (["--seed", "4294967296"], "must be below 2^32"),
        (["--lora_r", "-1"], "is not a whole number"),
        (["--lora_dropout", "1"], "is not between 0 and 1"),
        (["--lora_target_modules", "[query]"], "'query' is none of q_proj"),
        (["--train_on_inputs", "maybe"], "is neither True nor False"),
        (["--dtype", "int8"], "invalid choice"),
        (["--base_model", ""], "the value is empty"),
        (["--lr", "1"], "Unknown flag --lr"),
        (["--learning_rat", "1"], "Did you mean --learning_rate?"),
        (["--wandb_project", "p"], "needs the package wandb"),
    ],
)
def test_a_wrong_flag_is_reported_on_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read_training_options(["--data_path", "d", *flags])
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_data_path_is_required() -> None:
    with pytest.raises(SettingsError, match="--data_path"):
        read_training_options([])
