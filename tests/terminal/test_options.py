"""Flags of inference_LLaMA.py, and their errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import SettingsError
from model.sampling import Sampling
from model.types import Message
from terminal.options import RequestDefaults, TerminalOptions, read_terminal_options


def read(*argv: str, has_keyboard: bool = True, **environ: str) -> TerminalOptions:
    return read_terminal_options(argv, environ, has_keyboard=has_keyboard)


def test_defaults_are_a_chat_with_the_pages_settings() -> None:
    options = read()
    assert (options.batch, options.lora_model, options.data_file) == (False, None, None)
    assert options.defaults == RequestDefaults(sampling=Sampling())
    assert options.settings.quantization == "8bit"


def test_flags_are_read_with_hyphens_or_underscores() -> None:
    options = read(
        "--base-model", "b", "--lora_model=a-b", "--max-new-tokens", "7", "--top_k", "0",
        "--temperature", "0", "--seed", "3", "--scale", "0.5", "--prompt-template", "linly",
        "--system", "Be brief", "--min_p", "0.1", "--top_p", "0.5", "--repetition_penalty", "1.5",
    )  # fmt: skip
    sampling = Sampling(
        max_tokens=7, top_k=0, temperature=0, seed=3, min_p=0.1, top_p=0.5, repetition_penalty=1.5
    )
    assert options.defaults == RequestDefaults(None, 0.5, "linly", "Be brief", sampling)
    assert (options.settings.base_model, options.lora_model) == ("b", "a-b")


def test_flags_about_the_model_can_come_from_the_environment() -> None:
    options = read("--base_model", "flag", LINLY_BASE_MODEL="variable", LINLY_MAX_SEQUENCES="3")
    assert (options.settings.base_model, options.settings.max_sequences) == ("flag", 3)


@pytest.mark.parametrize(("argv", "keyboard"), [(["--data_file", "f"], True), ([], False)])
def test_a_data_file_or_a_pipe_makes_a_batch(argv: list[str], keyboard: bool) -> None:
    options = read(*argv, has_keyboard=keyboard)
    assert options.batch
    assert options.defaults == RequestDefaults()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--temprature", "1"], "Did you mean --temperature?"),
        (["--lora-modle", "a"], "Did you mean --lora_model?"),
        (["--server_port", "1"], "Unknown flag --server_port"),
        (["--temperature", "-1"], "--temperature must be 0 or more"),
        (["--temperature", "nan"], "--temperature must be 0 or more"),
        (["--temperature", "inf"], "--temperature must be 0 or more"),
        (["--temperature", "warm"], "'warm'"),
        (["--top_p", "0"], "--top_p must be above 0"),
        (["--max_new_tokens", "0"], "--max_new_tokens must be 1 or more"),
        (["--scale", "9"], "'9' is not a strength from 0 to 8"),
        (["--scale", "nan"], "'nan' is not a strength"),
        (["--lora_model", ""], "the value is empty"),
        (["--quantization", "3bit"], "invalid choice: '3bit'"),
        (["--context_length", "3"], "at least 16 tokens"),
        (["--adapters_dir", "nowhere"], "there is no folder nowhere"),
        (["--output_file", "g"], "Pass --data_file too"),
        (["a question"], "Unknown flag a question"),
    ],
)
def test_a_wrong_flag_is_reported_on_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        read(*argv)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_status == 2


def test_a_pipe_can_have_an_output_file() -> None:
    assert read("--output_file", "g", has_keyboard=False).output_file == Path("g")


def test_a_system_message_replaces_the_system_prompt_of_the_flags() -> None:
    defaults = RequestDefaults(system="flag")
    question = Message("user", "hello")
    own = Message("system", "own")
    assert defaults.request([question], drop_oldest=False).messages[0] == Message("system", "flag")
    assert defaults.request([own, question], drop_oldest=False).messages == (own, question)
