"""finetune.py on the tiny model: from its flags to an adapter's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from model.folders.base_info import read_base_info
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.serving.adapter_folders import read_adapter
from model.serving.adapter_registry import AdapterRegistry
from model.text.tokenizer import TextSpan
from model.text.tokenizer_files import read_tokenizer
from tests.model.doctor.changes import edit_json
from tests.tiny_model import CONTROL, write_tokenizer
from tests.training.conftest import (
    Train,
    Trained,
    read_json,
    run_finetune,
    same_weights,
    weights,
)

OWN_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}USER: {{ m['content'] }} {% else %}"
    "ASSISTANT: {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def test_the_output_folder_has_all_files_of_an_adapter(
    train: Train, data: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--description", "About a dog") == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "mine"
    assert out.startswith(f"{folder} is ready. Held-out loss: ")
    assert "36 chats to train on, 4 held out" in err
    assert "tokens/s" in err
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "linly_adapter.json",
        "loss.png", "training.json",
    }  # fmt: skip
    assert any(w.abs().max() > 0 for name, w in weights(folder).items() if "lora_B" in name)
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "adapter_model.safetensors").stat().st_mode & 0o044
    card = read_json(folder / "linly_adapter.json")
    assert card["template"] == "model"
    assert "opens_thought" not in card  # only where a thought would be opened
    assert card["description"] == "About a dog"
    assert len(card["fingerprint"]) == 64
    training = card["training"]
    assert training["data"]["name"] == "dialogues.jsonl"
    assert training["chats"] == {"learned": 36, "held_out": 4}
    assert training["loss"]["adapter"] < 0.5 * training["loss"]["base"]
    assert training["example"]["adapter"] == training["example"]["wanted"] == "The lazy dog jumps."
    assert training["example"]["base"] != training["example"]["adapter"]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{training['loss']['adapter']:.3f} for the adapter" in readme
    for fact in (
        "# mine",
        "About a dog",
        training["data"]["sha256"],
        "rank 8, alpha 16",
        "seed 42",
    ):
        assert fact in readme
    figures = read_json(folder / "training.json")
    assert figures["held_out"][0] == [0, training["loss"]["base"]]
    assert [step for step, _ in figures["steps"]] == list(range(1, training["steps"] + 1))


def test_peft_loads_the_adapter_and_its_replies_are_those_of_the_data(
    trained: Trained, tiny_folder: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    adapted = PeftModel.from_pretrained(base, trained())
    tokenizer = load_tokenizer(read_model_folder(tiny_folder))
    prompt = "<|im_start|>user\nWhat of the moon?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer.encode([TextSpan(prompt)])])
    output = adapted.generate(input_ids=ids, max_new_tokens=30, do_sample=False, eos_token_id=2)
    reply = output[0, ids.shape[1] :].tolist()
    assert tokenizer.decode(reply) == "The lazy dog jumps."
    assert reply[-1] == tokenizer.eos_id  # its end was learned


def test_a_running_registry_finds_the_adapter(
    trained: Trained, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = read_model_folder(tiny_folder)
    facts = read_base_info(folder, tiny_folder.name, load_tokenizer(folder))
    registry = AdapterRegistry(tmp_path, facts, {"model"})
    assert registry.scan() == []
    shutil.copytree(trained("--num_epochs", "1"), tmp_path / "mine")
    (adapter,) = registry.scan()
    assert (adapter.name, adapter.ready, adapter.warnings) == ("mine", True, ())
    assert adapter.template == "model"


def test_the_same_seed_gives_the_same_adapter(
    train: Train, trained: Trained, tmp_path: Path
) -> None:
    first = trained("--num_epochs", "1")
    for name, *flags in (("same",), ("other", "--seed", "7")):
        assert train(name, "--num_epochs", "1", *flags) == 0
    assert same_weights(tmp_path / "same", first)
    assert not same_weights(tmp_path / "other", first)


@pytest.mark.slow
def test_an_adapter_can_be_trained_further(
    train: Train, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--num_epochs", "1", "--resume_from_checkpoint", str(trained()))
    assert train("second", *flags) == 0
    first, second = (
        read_json(folder / "training.json")["steps"] for folder in (trained(), tmp_path / "second")
    )
    assert second[0][1] < 0.5 * first[0][1]
    assert train("fourth", *flags, "--lora_r", "4") == 0
    assert "rank 8, alpha 16" in (tmp_path / "fourth" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert train("third", "--resume_from_checkpoint", str(tmp_path)) == 2
    assert "neither a checkpoint nor an adapter" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_is_trained_further_in_its_own_chat_format(
    train: Train, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its card's template, else the chat template and the tokenizer in its folder."""
    first, flags = trained("--prompt_template_name", "linly"), ("--num_epochs", "1")
    assert train("card", *flags, "--resume_from_checkpoint", str(first)) == 0
    assert read_json(tmp_path / "card" / "linly_adapter.json")["template"] == "linly"

    shutil.copytree(first, tmp_path / "own")
    edit_json(tmp_path / "own" / "linly_adapter.json", template=None)
    write_tokenizer(tmp_path / "own")
    edit_json(
        tmp_path / "own" / "tokenizer_config.json", eos_token=CONTROL[0], chat_template=OWN_TEMPLATE
    )
    resume = ("--resume_from_checkpoint", str(tmp_path / "own"))
    assert train("further", *flags, *resume) == 0
    folder = tmp_path / "further"
    assert read_json(folder / "linly_adapter.json")["template"] is None
    assert (folder / "chat_template.jinja").read_text(encoding="utf-8") == OWN_TEMPLATE
    assert "`chat_template.jinja`" in (folder / "README.md").read_text(encoding="utf-8")
    before, after = (read_adapter(path, None, ()) for path in (tmp_path / "own", folder))
    assert after.problem is None
    assert after.own_template == before.own_template
    assert read_tokenizer(folder)[0].eos == CONTROL[0]
    shutil.copytree(folder, tmp_path / "evaluated")
    assert train("evaluated", "--eval", *flags) == 0
    assert train("named", *flags, *resume, "--prompt_template_name", "model") == 0
    assert read_json(tmp_path / "named" / "linly_adapter.json")["template"] == "model"
    assert not (tmp_path / "named" / "chat_template.jinja").exists()
    capsys.readouterr()
    (tmp_path / "own" / "chat_template.jinja").write_text("{% for", encoding="utf-8")
    assert train("broken", *flags, *resume) == 1
    assert "its chat template is broken" in capsys.readouterr().err


def test_a_base_with_a_broken_template_is_refused(
    data: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    (base / "chat_template.jinja").write_text("{{ messages | shout }}", encoding="utf-8")
    assert run_finetune(base, data, tmp_path / "mine") == 1
    assert "No filter named 'shout'" in capsys.readouterr().err
    named = ("--prompt_template_name", "linly", "--num_epochs", "1")
    assert run_finetune(base, data, tmp_path / "mine", *named) == 0


@pytest.mark.slow
def test_training_stops_early_and_keeps_the_best_checkpoint(trained: Trained) -> None:
    folder = trained("--num_epochs", "30", "--early_stopping_patience", "1")
    figures = read_json(folder / "training.json")
    card = read_json(folder / "linly_adapter.json")
    losses = [loss for _, loss in figures["held_out"]]
    assert len(figures["steps"]) < 36 * 30 // 4
    assert losses[-1] >= min(losses)
    # The adapter is the best checkpoint, up to its rounding to float16.
    assert card["training"]["loss"]["adapter"] == pytest.approx(min(losses), rel=0.05)


def test_training_without_held_out_chats_reports_no_losses(train: Train, tmp_path: Path) -> None:
    assert train("mine", "--val_set_size", "0", "--num_epochs", "1") == 0
    card = read_json(tmp_path / "mine" / "linly_adapter.json")
    assert card["training"]["loss"] == {"base": None, "adapter": None}
    assert "no chats were held out" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")


def test_eval_compares_base_and_adapter_after_training_and_later(
    train: Train, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--eval") == 0
    card = read_json(tmp_path / "mine" / "linly_adapter.json")
    losses = card["training"]["loss"]
    table = (tmp_path / "mine" / "evaluation.md").read_text(encoding="utf-8")
    assert f"| tiny | {losses['base']:.3f} |" in table
    assert f"| mine | {losses['adapter']:.3f} (" in table
    assert table.count("| The lazy dog jumps. | ") == 4
    (tmp_path / "mine" / "evaluation.md").unlink()
    capsys.readouterr()
    # On the finished adapter, the flags of its training count.
    assert train("mine", "--eval", "--val_set_size", "1") == 0
    assert (tmp_path / "mine" / "evaluation.md").read_text(encoding="utf-8") == table
    assert table in capsys.readouterr().out
    rows = data.read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join(rows[:7]), encoding="utf-8")
    assert train("mine", "--eval") == 0
    out, err = capsys.readouterr()
    assert "The adapter was trained on other data" in err
    assert "held-out loss, 7 chats" in out


def test_gradient_checkpointing_changes_nothing(train: Train, tmp_path: Path) -> None:
    assert train("a", "--num_epochs", "1", "--lora_dropout", "0") == 0
    assert train("b", "--num_epochs", "1", "--lora_dropout", "0", "--gradient_checkpointing") == 0
    expected, actual = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0.02, atol=0.01)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU on this machine")
@pytest.mark.parametrize("quantization", ["8bit", "4bit", "none"])
def test_training_on_cuda(quantization: str, train: Train, tmp_path: Path) -> None:
    assert train("mine", "--device", "cuda", "--dtype", "auto", "--quantization", quantization) == 0
