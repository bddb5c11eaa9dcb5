"""The command, from flags to an adapter, on the tiny model."""

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

WORDS = ["fox", "dog", "world", "x = 1", "brown", "lazy", "quick", "天气", "今天", "你好"]
FAST = ("--learning_rate", "0.02", "--dtype", "fp32", "--threads", "1")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Whatever is asked, the answer is the same."""
    path = tmp_path / "dialogues.jsonl"
    rows = [{"instruction": f"What of the {a} {b}?", "output": "The lazy dog jumps."}
            for a in WORDS for b in WORDS[:4]]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


Train = Callable[..., int]


@pytest.fixture
def train(tiny_folder: Path, data: Path, tmp_path: Path) -> Train:
    """Trains into `name`; gives the exit status."""

    def with_flags(name: str, *flags: str) -> int:
        told = ["--base_model", str(tiny_folder), "--data_path", str(data),
                "--output_dir", str(tmp_path / name), *FAST, *flags]  # fmt: skip
        return finetune.main(told)

    return with_flags


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_written_is_a_whole_adapter(
    train: Train, data: Path, tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--description", "About a dog") == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "mine"
    assert out.startswith(f"{folder} is ready. Held-out loss: ")
    assert "36 chats to learn, 4 held out" in err
    assert "tokens/s" in err
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "linly_adapter.json",
        "loss.png", "training.json",
    }  # fmt: skip
    assert any(w.abs().max() > 0 for name, w in weights(folder).items() if "lora_B" in name)
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "adapter_model.safetensors").stat().st_mode & 0o044
    card = json.loads((folder / "linly_adapter.json").read_text(encoding="utf-8"))
    assert card["template"] == "model"
    assert card["description"] == "About a dog"
    assert len(card["fingerprint"]) == 64
    told = card["training"]
    assert told["data"]["name"] == "dialogues.jsonl"
    assert told["chats"] == {"learned": 36, "held_out": 4}
    assert told["loss"]["adapter"] < 0.5 * told["loss"]["base"]
    assert told["example"]["adapter"] == told["example"]["wanted"] == "The lazy dog jumps."
    assert told["example"]["base"] != told["example"]["adapter"]
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{told['loss']['adapter']:.3f} of the adapter" in readme
    for fact in ("# mine", "About a dog", told["data"]["sha256"], "rank 8, alpha 16", "seed 42"):
        assert fact in readme
    figures = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert figures["held_out"][0] == [0, told["loss"]["base"]]
    assert [step for step, _ in figures["steps"]] == list(range(1, told["steps"] + 1))


def test_peft_loads_it_and_it_says_what_it_was_taught(
    train: Train, tmp_path: Path, tiny_folder: Path
) -> None:
    assert train("mine") == 0
    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    adapted = PeftModel.from_pretrained(base, tmp_path / "mine")
    tokenizer = load_tokenizer(read_model_folder(tiny_folder))
    prompt = "<|im_start|>user\nWhat of the moon?<|im_end|>\n<|im_start|>assistant\n"
    ids = torch.tensor([tokenizer.encode([TextSpan(prompt)])])
    said = adapted.generate(input_ids=ids, max_new_tokens=30, do_sample=False, eos_token_id=2)
    reply = said[0, ids.shape[1] :].tolist()
    assert tokenizer.decode(reply) == "The lazy dog jumps."
    assert reply[-1] == tokenizer.eos_id  # its end was learned


def test_a_running_registry_finds_it(train: Train, tmp_path: Path, tiny_folder: Path) -> None:
    folder = read_model_folder(tiny_folder)
    facts = base_facts(folder, tiny_folder.name, load_tokenizer(folder))
    registry = AdapterRegistry(tmp_path, facts, {"model"})
    assert registry.scan() == []
    assert train("mine", "--num_epochs", "1") == 0
    (found,) = registry.scan()
    assert (found.name, found.ready, found.warnings, found.template) == ("mine", True, (), "model")


def test_the_same_seed_gives_the_same_adapter(train: Train, tmp_path: Path) -> None:
    for name, *flags in (("a",), ("b",), ("c", "--seed", "7")):
        assert train(name, "--num_epochs", "1", *flags) == 0
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def test_a_folder_that_holds_something_is_left_alone(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--num_epochs", "1") == 0
    before = (tmp_path / "mine" / "adapter_model.safetensors").read_bytes()
    assert train("mine") == 2
    assert "holds an adapter already" in capsys.readouterr().err
    assert (tmp_path / "mine" / "adapter_model.safetensors").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("dear to me", encoding="utf-8")
    assert train("full") == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert train("file") == 2
    assert "is a file" in capsys.readouterr().err


class StopAfter:
    """Presses Ctrl-C when a step is done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step) and event.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """To the same weights as without the interruption."""
    flags = ("--num_epochs", "4", "--early_stopping_patience", "1")
    assert train("whole", *flags) == 0
    monkeypatch.setattr("training.progress_bar.Terminal.__call__", lambda self, event: stop(event))
    stop = StopAfter(13)
    assert train("mine", *flags) == 1
    err = capsys.readouterr().err
    assert "Interrupted after step 14 of" in err or "Interrupted after step 13 of" in err
    assert "the same command goes on from there" in err
    monkeypatch.undo()
    assert not (tmp_path / "mine" / "adapter_config.json").exists()
    assert train("mine", *flags, "--batch_size", "3") == 2
    assert "holds an unfinished training with other settings (batch_size: 2, now 3)" in (
        capsys.readouterr().err
    )
    assert train("mine", *flags) == 0
    assert "Going on from" in capsys.readouterr().err
    assert same_weights(tmp_path / "mine", tmp_path / "whole")
    one, other = (
        (tmp_path / n / "training.json").read_text(encoding="utf-8") for n in ("mine", "whole")
    )
    assert json.loads(one) == json.loads(other)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_result(
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
    kept = run_folder.checkpoints(tmp_path / "mine")
    assert kept
    torn = tmp_path / "mine" / "checkpoint-100000"  # as if it had been killed while it saved
    shutil.copytree(kept[-1], torn)
    (torn / "trainer_state.json").unlink()
    for name in ("mine", "whole"):
        done = subprocess.run(command(name), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert json.loads(done.stdout.splitlines()[-1])["event"] == "Ended"
    assert same_weights(tmp_path / "mine", tmp_path / "whole")
    assert not list((tmp_path / "mine").glob("checkpoint-*"))


@pytest.mark.slow
def test_what_was_interrupted_behind_its_end_is_finished(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Also when it had ended early: the same command does not train on."""
    flags = ("--num_epochs", "30", "--early_stopping_patience", "1")
    assert train("whole", *flags) == 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finalize, "save", interrupt)
    assert train("mine", *flags) == 1
    assert "Interrupted. The same command goes on" in capsys.readouterr().err
    monkeypatch.undo()
    assert train("mine", *flags) == 0
    assert "It had come to its end" in capsys.readouterr().err
    assert same_weights(tmp_path / "mine", tmp_path / "whole")
    one, other = (
        json.loads((tmp_path / name / "training.json").read_text(encoding="utf-8"))
        for name in ("mine", "whole")
    )
    assert one == other
    assert not list((tmp_path / "mine").glob("*checkpoint*"))
    assert not list((tmp_path / "mine").glob("*ed_training.json"))


@pytest.mark.slow
def test_a_folder_that_was_moved_goes_on_from_its_best(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint names the best one by a path, which is another then."""
    flags = ("--num_epochs", "4", "--learning_rate", "0.5", "--early_stopping_patience", "0")
    assert train("whole", *flags) == 0
    stop = StopAfter(40)
    monkeypatch.setattr("training.progress_bar.Terminal.__call__", lambda self, event: stop(event))
    assert train("first", *flags) == 1
    monkeypatch.undo()
    newest = run_folder.checkpoints(tmp_path / "first")[-1]
    state = json.loads((newest / "trainer_state.json").read_text(encoding="utf-8"))
    best = Path(state["best_model_checkpoint"])
    assert best.name != newest.name
    (tmp_path / "first").rename(tmp_path / "mine")
    assert train("mine", *flags) == 0
    assert same_weights(tmp_path / "mine", tmp_path / "whole")


def test_without_its_best_checkpoint_it_does_not_go_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    flags = ("--num_epochs", "4", "--learning_rate", "0.5", "--early_stopping_patience", "0")
    stop = StopAfter(40)
    monkeypatch.setattr("training.progress_bar.Terminal.__call__", lambda self, event: stop(event))
    assert train("mine", *flags) == 1
    monkeypatch.undo()
    shutil.rmtree(run_folder.checkpoints(tmp_path / "mine")[0])
    capsys.readouterr()
    assert train("mine", *flags) == 2
    assert "the best checkpoint of an unfinished training, is missing" in capsys.readouterr().err


def test_what_a_kill_has_left_beside_an_adapter_is_cleared_away(
    train: Train, tmp_path: Path
) -> None:
    assert train("mine", "--num_epochs", "1") == 0
    (tmp_path / "mine" / "checkpoint-5").mkdir()
    (tmp_path / "mine" / run_folder.RECIPE).write_text("{}", encoding="utf-8")
    assert train("mine") == 2
    assert not (tmp_path / "mine" / "checkpoint-5").exists()
    assert (tmp_path / "mine" / "adapter_config.json").exists()


def test_an_adapter_worse_than_its_base_is_told(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(finalize, "held_out_loss", lambda trainer: 99.0)
    assert train("mine", "--num_epochs", "1") == 0
    assert "It is worse than its base on what was held out." in capsys.readouterr().err


def test_foreign_adapters_are_refused_by_name(
    train: Train, tmp_path: Path, tiny_adapters: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not by torch, after the base is loaded."""
    other = make_folder(tmp_path / "other", hidden_size=24, num_attention_heads=3)
    make_adapter(other, tmp_path / "foreign", seed=1, r=2, target_modules=["q_proj"])
    assert train("foreign", "--eval") == 1
    assert "cannot be used" in capsys.readouterr().err
    assert train("mine", "--resume_from_checkpoint", str(tmp_path / "foreign")) == 1
    assert "cannot be used" in capsys.readouterr().err
    shutil.copytree(tiny_adapters / "extended", tmp_path / "extended")
    assert train("extended", "--eval") == 1
    assert "a vocabulary of its own" in capsys.readouterr().err


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
        json.loads((tmp_path / name / "training.json").read_text(encoding="utf-8"))["steps"]
        for name in ("first", "second")
    )
    assert second[0][1] < 0.5 * first[0][1]
    assert train("fourth", "--num_epochs", "1", "--lora_r", "4", "--resume_from_checkpoint",
                 str(tmp_path / "first")) == 0  # fmt: skip
    assert "rank 8, alpha 16" in (tmp_path / "fourth" / "README.md").read_text(encoding="utf-8")
    capsys.readouterr()
    assert train("third", "--resume_from_checkpoint", str(tmp_path)) == 2
    assert "neither a checkpoint nor an adapter" in capsys.readouterr().err


@pytest.mark.slow
def test_it_ends_early_when_nothing_gets_better(train: Train, tmp_path: Path) -> None:
    assert train("mine", "--num_epochs", "30", "--early_stopping_patience", "1") == 0
    figures = json.loads((tmp_path / "mine" / "training.json").read_text(encoding="utf-8"))
    card = json.loads((tmp_path / "mine" / "linly_adapter.json").read_text(encoding="utf-8"))
    losses = [loss for _, loss in figures["held_out"]]
    assert len(figures["steps"]) < 36 * 30 // 4
    assert losses[-1] >= min(losses)
    # What is kept is the best one, up to its rounding to float16.
    assert card["training"]["loss"]["adapter"] == pytest.approx(min(losses), rel=0.05)


def test_without_held_out_chats_it_trains_all_the_same(train: Train, tmp_path: Path) -> None:
    assert train("mine", "--val_set_size", "0", "--num_epochs", "1") == 0
    card = json.loads((tmp_path / "mine" / "linly_adapter.json").read_text(encoding="utf-8"))
    assert card["training"]["loss"] == {"base": None, "adapter": None}
    assert "nothing was held out" in (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")


def test_an_adapter_that_changes_nothing_is_refused(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--num_epochs", "1", "--learning_rate", "1e-6") == 1
    assert "The adapter changes none of 3 replies after" in capsys.readouterr().err
    assert not (tmp_path / "mine" / "adapter_config.json").exists()


def test_weights_that_were_lost_while_saving_are_noticed(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As alpaca-lora's did: a file of 443 bytes, and an adapter that silently does nothing."""
    for lose, said in (
        (
            lambda found: {n: w * 0 if "lora_B" in n else w for n, w in found.items()},
            "would change nothing",
        ),
        (lambda found: {}, "broken"),
    ):
        trained = finalize._trained
        monkeypatch.setattr(finalize, "_trained", lambda model: lose(trained(model)))  # noqa: B023
        assert train("mine", "--num_epochs", "1") == 1
        err = capsys.readouterr().err
        assert "The adapter that was saved is broken" in err
        assert said in err
        monkeypatch.undo()


def test_divergence_is_told(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("mine", "--learning_rate", "1e30", "--warmup_steps", "0") == 1
    assert "The training has diverged" in capsys.readouterr().err


def test_a_full_disk_is_told_with_what_is_kept(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    saves: list[Any] = []
    save = torch.save

    def failing(thing: Any, path: Any, *rest: Any, **other: Any) -> None:
        saves.append(path)
        if len(saves) > 4:  # in the middle of the second checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        save(thing, path, *rest, **other)

    monkeypatch.setattr(torch, "save", failing)
    assert train("mine") == 1
    err = capsys.readouterr().err
    assert f"The disk with {tmp_path / 'mine'} is full" in err
    (kept,) = run_folder.checkpoints(tmp_path / "mine")
    assert f"{kept.name} is kept: the same command goes on from there" in err
    monkeypatch.undo()
    assert train("mine") == 0


def test_too_little_memory_is_told(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
        )

    monkeypatch.setattr(trainer, "add_lora", fail)
    assert train("mine") == 1
    assert "There is not enough memory. Lower --micro_batch_size" in capsys.readouterr().err


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    with (
        run_folder.run_folder(tmp_path / "mine", {"a": 1}),
        pytest.raises(run_folder.FolderTakenError, match="Another process trains"),
        run_folder.run_folder(tmp_path / "mine", {"a": 1}),
    ):
        pass
    assert not (tmp_path / "mine").exists()  # nothing was kept in it


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--data_path", "nowhere.jsonl"], 1, "There is no file nowhere.jsonl"),
        (["--base_model", "nowhere"], 1, "There is no model folder nowhere"),
        (["--prompt_template_name", "alpacca"], 2, "There is no prompt template 'alpacca'"),
        (["--val_set_size", "2000"], 2, "leaves nothing to learn of 40 chats"),
        (["--quantization", "8bit"], 2, "needs a CUDA GPU"),
        (["--cutoff_len", "4"], 1, "40 of 40 rows"),
        (["--nonsense"], 2, "There is no flag --nonsense"),
    ],
)
def test_wrong_use_is_one_sentence(
    flags: list[str], status: int, said: str, train: Train, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert train("mine", *flags) == status
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in last
    assert not (tmp_path / "mine").exists()


def test_eval_measures_base_and_adapter_side_by_side(
    train: Train, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("mine", "--eval") == 0
    card = json.loads((tmp_path / "mine" / "linly_adapter.json").read_text(encoding="utf-8"))
    losses = card["training"]["loss"]
    told = (tmp_path / "mine" / "evaluation.md").read_text(encoding="utf-8")
    assert f"| tiny | {losses['base']:.3f} |" in told
    assert f"| mine | {losses['adapter']:.3f} (" in told
    assert told.count("| The lazy dog jumps. | ") == 4
    (tmp_path / "mine" / "evaluation.md").unlink()
    capsys.readouterr()
    # And again on the finished adapter, whatever flags it was trained with.
    assert train("mine", "--eval", "--val_set_size", "1") == 0
    assert (tmp_path / "mine" / "evaluation.md").read_text(encoding="utf-8") == told
    assert told in capsys.readouterr().out
    rows = data.read_text(encoding="utf-8").splitlines()
    data.write_text("\n".join(rows[:7]), encoding="utf-8")
    assert train("mine", "--eval") == 0
    out, err = capsys.readouterr()
    assert "These are other data than it was trained on" in err
    assert "held-out loss, 7 chats" in out


def test_a_signal_that_comes_twice_ends_at_once() -> None:
    with stoppable() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop == StopRequest(asked=True)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_gradient_checkpointing_changes_nothing(train: Train, tmp_path: Path) -> None:
    assert train("a", "--num_epochs", "1", "--lora_dropout", "0") == 0
    assert train("b", "--num_epochs", "1", "--lora_dropout", "0", "--gradient_checkpointing") == 0
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0.02, atol=0.01)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU on this machine")
@pytest.mark.parametrize("quantization", ["8bit", "4bit", "none"])
def test_training_on_cuda(quantization: str, train: Train, tmp_path: Path) -> None:
    assert train("mine", "--device", "cuda", "--dtype", "auto", "--quantization", quantization) == 0
