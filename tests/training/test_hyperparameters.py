"""Defaults that follow the data."""

from __future__ import annotations

import pytest

from model.tensor_names import LINEAR_MODULES
from model.types import SettingsError
from training.hyperparameters import Hyperparameters, held_out_size, resolve
from training.options import read_options


def recipe(learned: int, held_out: int, *flags: str, width: int = 5120) -> Hyperparameters:
    options = read_options(["--data_path", "d", *flags])
    return resolve(options.hyperparameters, learned, held_out, width)


def test_a_hundred_dialogues_get_steps_enough() -> None:
    """With alpaca-lora's own defaults they make three, inside of a warm-up of a hundred."""
    made = recipe(90, 10)
    assert (made.batch_size, made.micro_batch_size, made.accumulation) == (4, 4, 1)
    assert made.warmup_steps == 4
    assert made.learning_rate == pytest.approx(2.7e-4, abs=1e-5)


def test_large_data_get_alpacas_batch() -> None:
    made = recipe(49_000, 2000)
    assert (made.batch_size, made.micro_batch_size, made.accumulation) == (128, 4, 32)


def test_one_row_can_be_learned() -> None:
    made = recipe(1, 0)
    assert (made.batch_size, made.warmup_steps) == (1, 1)


def test_narrow_bases_get_a_higher_rate() -> None:
    assert recipe(90, 10, width=576).learning_rate == pytest.approx(8e-4, abs=1e-5)


def test_flags_win() -> None:
    made = recipe(
        90, 10, "--batch-size=12", "--micro_batch_size", "5", "--learning_rate", "1e-5",
        "--warmup_steps=0", "--lora_target_modules", "[q_proj,v_proj]", "--train_on_inputs",
        "--group_by_length=False",
    )  # fmt: skip
    assert (made.batch_size, made.micro_batch_size) == (12, 4)  # micro-batches of a step are alike
    assert (made.learning_rate, made.warmup_steps) == (1e-5, 0)
    assert made.lora_target_modules == ("q_proj", "v_proj")
    assert made.train_on_inputs
    assert not made.group_by_length


@pytest.mark.parametrize(
    ("examples", "expected"), [(1, 0), (2, 1), (9, 1), (100, 10), (52_000, 2000)]
)
def test_one_in_ten_is_held_out(examples: int, expected: int) -> None:
    assert held_out_size(None, examples) == expected


def test_a_validation_larger_than_the_data_is_refused_with_the_numbers() -> None:
    assert held_out_size(99, 100) == 99
    with pytest.raises(SettingsError, match=r"--val_set_size 2000 leaves .* of 100 chats"):
        held_out_size(2000, 100)


def test_flags_of_old_commands_are_taken() -> None:
    options = read_options(
        ["--data_path", "d", "--add_eos_token", "--train_on_inputs", "False", "--batch_size=8",
         "--lora_target_modules", "['k_proj', 'q_proj']"]
    )  # fmt: skip
    assert options.hyperparameters["train_on_inputs"] is False
    assert options.hyperparameters["lora_target_modules"] == ("q_proj", "k_proj")
    assert options.output_dir.name == "lora-alpaca"
    assert (
        read_options(["--data_path", "d", "--lora_target_modules", "all"]).hyperparameters[
            "lora_target_modules"
        ]
        == LINEAR_MODULES
    )


@pytest.mark.parametrize(
    ("flags", "said"),
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
        (["--lr", "1"], "There is no flag --lr"),
        (["--learning_rat", "1"], "Did you mean --learning_rate?"),
        (["--wandb_project", "p"], "needs the package wandb"),
    ],
)
def test_wrong_flags_are_one_sentence(flags: list[str], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_options(["--data_path", "d", *flags])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_must_be_named() -> None:
    with pytest.raises(SettingsError, match="--data_path"):
        read_options([])
