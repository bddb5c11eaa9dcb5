"""finetune.py on the tiny model: from its flags to an adapter's folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import finetune
from model.config.settings import CHECKOUT
from model.folders.base_info import base_facts
from model.folders.model_folder import load_tokenizer, read_model_folder
from model.serving.adapter_registry import AdapterRegistry
from model.text.tokenizer import TextSpan
from tests.tiny import make_adapter, make_folder
from training import finalize, run_folder, trainer
from training.events import Event, Step
from training.interrupt import StopRequest, stoppable
from training.progress_bar import ProgressBar

WORDS = ["fox", "dog", "world", "x = 1", "brown", "lazy", "quick", "天气", "今天", "你好"]
FAST = ("--learning_rate", "0.02", "--dtype", "fp32", "--threads", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data file with the same reply to all questions."""
    path = tmp_path / "dialogues.jsonl"
    rows = [{"instruction": f"What of the {a} {b}?", "output": "The lazy dog jumps."}
            for a in WORDS for b in WORDS[:4]]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


Train = Callable[..., int]


@pytest.fixture
def train(tiny_folder: Path, data: Path, tmp_path: Path) -> Train:
    """A function that trains into the folder `name` and returns the exit status."""

    def run(name: str, *flags: str) -> int:
        return finetune.main([
            "--base_model", str(tiny_folder), "--data_path", str(data),
            "--output_dir", str(tmp_path / name), *FAST, *flags,
        ])  # fmt: skip

    return run


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same_weights(folder: Path, other: Path) -> bool:
    a, b = weights(folder), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
    train: Train, tmp_path: Path, tiny_folder: Path
) -> None:
    assert train("mine") == 0
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    adapted = PeftModel.from_pretrained(base, tmp_path / "mine")
    tokenizer = load_tokenizer(read_model_folder(tiny_folder))
    prompt = "<|im_start|>user\nWhat of the moon?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer.encode([TextSpan(prompt)])])
    output = adapted.generate(input_ids=ids, max_new_tokens=30, do_sample=False, eos_token_id=2)
    reply = output[0, ids.shape[1] :].tolist()
    assert tokenizer.decode(reply) == "The lazy dog jumps."
    assert reply[-1] == tokenizer.eos_id  # its end was learned


def test_a_running_registry_finds_the_adapter(
    train: Train, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = read_model_folder(tiny_folder)
    facts = base_facts(folder, tiny_folder.name, load_tokenizer(folder))
    registry = AdapterRegistry(tmp_path, facts, {"model"})
    assert registry.scan() == []
    assert train("mine", "--num_epochs", "1") == 0
    (adapter,) = registry.scan()
    assert (adapter.name, adapter.ready, adapter.warnings) == ("mine", True, ())
    assert adapter.template == "model"


def test_the_same_seed_gives_the_same_adapter(train: Train, tmp_path: Path) -> None:
    for name, *flags in (("a",), ("b",), ("c", "--seed", "7")):
        assert train(name, "--num_epochs", "1", *flags) == 0
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_an_output_folder_with_other_files_is_refused_and_not_changed(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--num_epochs", "1") == 0
    before = (tmp_path / "mine" / "adapter_model.safetensors").read_bytes()
    assert train("mine") == 2
    assert "already contains an adapter" in capsys.readouterr().err
    assert (tmp_path / "mine" / "adapter_model.safetensors").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear to me", encoding="utf-8")
    assert train("full") == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert train("file") == 2
    assert "is a file" in capsys.readouterr().err


def interrupt_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presses Ctrl-C after that step."""

    def handle(_: ProgressBar, event: Event) -> None:
        if isinstance(event, Step) and event.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ProgressBar, "__call__", handle)


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_continues(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The result has the same weights as without the interruption."""
    flags = ("--num_epochs", "4", "--early_stopping_patience", "1")
    assert train("uninterrupted", *flags) == 0
    interrupt_after(13, monkeypatch)
    assert train("mine", *flags) == 1
    err = capsys.readouterr().err
    assert "Interrupted after step 14 of" in err or "Interrupted after step 13 of" in err
    assert "Run the same command to continue from the checkpoint in" in err
    monkeypatch.undo()
    assert not (tmp_path / "mine" / "adapter_config.json").exists()
    assert train("mine", *flags, "--batch_size", "3") == 2
    assert "contains an unfinished training with other settings (batch_size: 2, now 3)" in (
        capsys.readouterr().err
    )
    assert train("mine", *flags) == 0
    assert "Continuing from" in capsys.readouterr().err
    assert same_weights(tmp_path / "mine", tmp_path / "uninterrupted")
    assert read_json(tmp_path / "mine" / "training.json") == read_json(
        tmp_path / "uninterrupted" / "training.json"
    )


@pytest.mark.slow
def test_a_killed_training_continues_to_the_same_result(
    tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    def command(name: str) -> list[str]:
        return [sys.executable, str(CHECKOUT / "finetune.py"), "--base_model", str(tiny_folder),
                "--data_path", str(data), "--output_dir", str(tmp_path / name), *FAST,
                "--num_epochs", "40", "--early_stopping_patience", "0",
                "--progress", "json"]  # fmt: skip

    with subprocess.Popen(command("mine"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "Step" and event["step"] == 25:
                process.kill()
                break
    assert process.wait() == -signal.SIGKILL
    checkpoints = run_folder.checkpoints(tmp_path / "mine")
    assert checkpoints
    incomplete = tmp_path / "mine" / "checkpoint-100000"  # as if killed while it was saved
    shutil.copytree(checkpoints[-1], incomplete)
    (incomplete / "trainer_state.json").unlink()
    for name in ("mine", "uninterrupted"):
        done = subprocess.run(command(name), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert json.loads(done.stdout.splitlines()[-1])["event"] == "Ended"
    assert same_weights(tmp_path / "mine", tmp_path / "uninterrupted")
    assert not list((tmp_path / "mine").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_training_interrupted_after_its_last_step_is_not_trained_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Here early stopping ended it: the same command only saves and checks the adapter."""
    flags = ("--num_epochs", "30", "--early_stopping_patience", "1")
    assert train("uninterrupted", *flags) == 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finalize, "save_adapter", interrupt)
    assert train("mine", *flags) == 1
    assert "Interrupted. The same command continues" in capsys.readouterr().err
    monkeypatch.undo()
    assert train("mine", *flags) == 0
    assert "The training was already complete" in capsys.readouterr().err
    assert same_weights(tmp_path / "mine", tmp_path / "uninterrupted")
    assert read_json(tmp_path / "mine" / "training.json") == read_json(
        tmp_path / "uninterrupted" / "training.json"
    )
    assert not list((tmp_path / "mine").glob("*checkpoint*"))
    assert not list((tmp_path / "mine").glob("*ed_training.json"))


@pytest.mark.slow
def test_a_training_in_a_moved_folder_finds_its_best_checkpoint(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint has the path of the best one, which has changed."""
    flags = ("--num_epochs", "4", "--learning_rate", "0.5", "--early_stopping_patience", "0")
    assert train("uninterrupted", *flags) == 0
    interrupt_after(40, monkeypatch)
    assert train("first", *flags) == 1
    monkeypatch.undo()
    newest = run_folder.checkpoints(tmp_path / "first")[-1]
    best = Path(read_json(newest / "trainer_state.json")["best_model_checkpoint"])
    assert best.name != newest.name
    (tmp_path / "first").rename(tmp_path / "mine")
    assert train("mine", *flags) == 0
    assert same_weights(tmp_path / "mine", tmp_path / "uninterrupted")


def test_a_training_whose_best_checkpoint_is_missing_is_refused(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flags = ("--num_epochs", "4", "--learning_rate", "0.5", "--early_stopping_patience", "0")
    interrupt_after(40, monkeypatch)
    assert train("mine", *flags) == 1
    monkeypatch.undo()
    shutil.rmtree(run_folder.checkpoints(tmp_path / "mine")[0])
    capsys.readouterr()
    assert train("mine", *flags) == 2
    assert "the best checkpoint of an unfinished training, is missing" in capsys.readouterr().err


def test_files_of_a_killed_training_beside_the_adapter_are_removed(
    train: Train, tmp_path: Path
) -> None:
    assert train("mine", "--num_epochs", "1") == 0
    (tmp_path / "mine" / "checkpoint-5").mkdir()
    (tmp_path / "mine" / run_folder.SETTINGS).write_text("{}", encoding="utf-8")
    assert train("mine") == 2
    assert not (tmp_path / "mine" / "checkpoint-5").exists()
    assert (tmp_path / "mine" / "adapter_config.json").exists()


def test_an_adapter_worse_than_its_base_is_reported(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finalize, "held_out_loss", lambda trainer: 99.0)
    assert train("mine", "--num_epochs", "1") == 0
    assert "The adapter is worse than the base on the held-out chats." in capsys.readouterr().err


def test_an_adapter_of_another_base_is_refused_before_the_base_is_loaded(
    train: Train, tmp_path: Path, tiny_adapters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_folder(tmp_path / "other", hidden_size=24, num_attention_heads=3)
    make_adapter(other, tmp_path / "foreign", seed=1, r=2, target_modules=["q_proj"])
    assert train("foreign", "--eval") == 1
    assert "cannot be used" in capsys.readouterr().err
    assert train("mine", "--resume_from_checkpoint", str(tmp_path / "foreign")) == 1
    assert "cannot be used" in capsys.readouterr().err
    shutil.copytree(tiny_adapters / "extended", tmp_path / "extended")
    assert train("extended", "--eval") == 1
    assert "has its own vocabulary" in capsys.readouterr().err


@pytest.mark.slow
def test_an_adapter_can_be_trained_further(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("first") == 0
    assert (
        train("second", "--num_epochs", "1", "--resume_from_checkpoint", str(tmp_path / "first"))
        == 0
    )
    first, second = (
        read_json(tmp_path / name / "training.json")["steps"] for name in ("first", "second")
    )
    assert second[0][1] < 0.5 * first[0][1]
    assert train("fourth", "--num_epochs", "1", "--lora_r", "4", "--resume_from_checkpoint",
                 str(tmp_path / "first")) == 0  # fmt: skip
    assert "rank 8, alpha 16" in (tmp_path / "fourth" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert train("third", "--resume_from_checkpoint", str(tmp_path)) == 2
    assert "neither a checkpoint nor an adapter" in capsys.readouterr().err


@pytest.mark.slow
def test_training_stops_early_and_keeps_the_best_checkpoint(train: Train, tmp_path: Path) -> None:
    assert train("mine", "--num_epochs", "30", "--early_stopping_patience", "1") == 0
    figures = read_json(tmp_path / "mine" / "training.json")
    card = read_json(tmp_path / "mine" / "linly_adapter.json")
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


def test_an_adapter_that_changes_nothing_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--num_epochs", "1", "--learning_rate", "1e-6") == 1
    assert "steps the adapter changes none of 3 replies" in capsys.readouterr().err
    assert not (tmp_path / "mine" / "adapter_config.json").exists()


def test_weights_lost_while_saving_are_detected(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """alpaca-lora saved a file of 443 bytes, and an adapter without any effect."""
    for damage, message in (
        (
            lambda weights: {n: w * 0 if "lora_B" in n else w for n, w in weights.items()},
            "changes nothing",
        ),
        (lambda weights: {}, "broken"),
    ):
        trained = finalize.trained_weights
        monkeypatch.setattr(finalize, "trained_weights", lambda model: damage(trained(model)))  # noqa: B023
        assert train("mine", "--num_epochs", "1") == 1
        err = capsys.readouterr().err
        assert "The saved adapter is broken" in err
        assert message in err
        monkeypatch.undo()


def test_a_diverged_training_is_reported(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("mine", "--learning_rate", "1e30", "--warmup_steps", "0") == 1
    assert "The training has diverged" in capsys.readouterr().err


def test_a_full_disk_is_reported_with_the_checkpoint_that_is_kept(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    saves: list[Any] = []
    save = torch.save

    def failing_save(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        saves.append(path)
        if len(saves) > 4:  # in the middle of the second checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        save(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", failing_save)
    assert train("mine") == 1
    err = capsys.readouterr().err
    assert f"The disk with {tmp_path / 'mine'} is full" in err
    (checkpoint,) = run_folder.checkpoints(tmp_path / "mine")
    assert f"Run the same command to continue from {checkpoint.name}" in err
    monkeypatch.undo()
    assert train("mine") == 0


def test_too_little_memory_is_reported(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
        )

    monkeypatch.setattr(trainer, "add_lora", fail)
    assert train("mine") == 1
    assert "There is not enough memory. Lower --micro_batch_size" in capsys.readouterr().err


def test_run_folder_lets_one_training_into_a_folder(tmp_path: Path) -> None:
    with (
        run_folder.run_folder(tmp_path / "mine", {"a": 1}),
        pytest.raises(run_folder.FolderTakenError, match="Another process is training"),
        run_folder.run_folder(tmp_path / "mine", {"a": 1}),
    ):
        pass
    assert not (tmp_path / "mine").exists()  # it was empty, so it was removed


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--data_path", "nowhere.jsonl"], 1, "There is no file nowhere.jsonl"),
        (["--base_model", "nowhere"], 1, "There is no model folder nowhere"),
        (["--prompt_template_name", "alpacca"], 2, "There is no prompt template 'alpacca'"),
        (["--val_set_size", "2000"], 2, "leaves none of 40 chats to train on"),
        (["--quantization", "8bit"], 2, "needs a CUDA GPU"),
        (["--cutoff_len", "4"], 1, "40 of 40 rows"),
        (["--nonsense"], 2, "Unknown flag --nonsense"),
    ],
)
def test_a_wrong_flag_is_reported_on_one_line(
    flags: list[str], status: int, message: str, train: Train, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert train("mine", *flags) == status
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert not (tmp_path / "mine").exists()


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


def test_stoppable_requests_a_stop_first_and_interrupts_then() -> None:
    with stoppable() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop == StopRequest(requested=True)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


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
