"""Merging: the result equals peft's merge, in a folder that needs no other."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.__main__ import main
from model.base_resolver import MODEL_TEMPLATE, available_templates
from model.config.settings import CHECKOUT, read_settings
from model.folders.model_folder import load_tokenizer, read_model_folder
from tests.model.doctor.changes import edit_json
from tests.tiny_model import make_adapter, make_folder, write_tokenizer

Capture = pytest.CaptureFixture[str]
IDS = torch.tensor([[1, 5, 77, 300, 8, 12]])

# Warnings of peft about what these tests do on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges even a tiny layer in several chunks."""
    monkeypatch.setattr("model.merge.CHUNK_VALUES", 700)


def run(base: Path, adapters: Sequence[Path | str], out: Path, *flags: str) -> int:
    names = [str(adapter) for adapter in adapters]
    arguments = ["--base_model", str(base), "--lora_model", *names, "--output_dir", str(out)]
    return main(["merge", *arguments, *flags])


def by_peft(base: Path, adapters: Sequence[Path], scales: Sequence[float] | None = None) -> Any:
    """The complete model, merged by peft in float32, one adapter after the other."""
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for adapter, scale in zip(adapters, scales or [1.0] * len(adapters), strict=True):
        adapted = PeftModel.from_pretrained(model, adapter)
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                module.scale_layer(scale)
        model = adapted.merge_and_unload()
    return model


def logits(folder: Path) -> Tensor:
    """The logits that transformers computes from a folder."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return torch.as_tensor(model(IDS).logits)


def assert_same(out: Path, expected: Any) -> None:
    with torch.inference_mode():
        expected_logits = expected(IDS).logits
    assert torch.allclose(logits(out), expected_logits, atol=2e-4), (
        (logits(out) - expected_logits).abs().max()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qv", "all", "rs", "patterned", "head", "whole"])
def test_merge_equals_that_of_peft(
    name: str, tiny_folder: Path, tiny_adapters: Path, tmp_path: Path, capsys: Capture
) -> None:
    adapter, out = tiny_adapters / name, tmp_path / "合并 out"
    assert run(tiny_folder, [adapter], out) == 0
    assert f"Merged {name} into tiny" in capsys.readouterr().out
    assert_same(out, by_peft(tiny_folder, [adapter]))
    assert not torch.allclose(logits(out), logits(tiny_folder), atol=1e-2)
    assert main(["check", str(out), "--deep"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["合并 out"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [{"use_dora": True}, {"init_lora_weights": "gaussian"}])
def test_merge_supports_kinds_that_are_not_served(
    kind: dict[str, Any], tiny_folder: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(
        tiny_folder, tmp_path / "a", seed=4, r=4, target_modules=["q_proj", "up_proj"], **kind
    )
    assert run(tiny_folder, [adapter], tmp_path / "out") == 0
    assert_same(tmp_path / "out", by_peft(tiny_folder, [adapter]))


@pytest.mark.slow
def test_merge_of_several_adapters_with_adapter_scales(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    adapters, scales = [tiny_adapters / "all", tiny_adapters / "qv"], [0.5, -1.5]
    out = tmp_path / "out"
    assert run(tiny_folder, adapters, out, "--scale", *map(str, scales)) == 0
    assert_same(out, by_peft(tiny_folder, adapters, scales))
    assert "all at strength 0.5, then qv at strength -1.5" in (out / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("layers", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_merge_of_own_layers_unties_embedding_and_head(layers: list[str], tmp_path: Path) -> None:
    base = make_folder(tmp_path / "base", seed=5, tie_word_embeddings=True)
    adapter = make_adapter(
        base, tmp_path / "a", seed=6, r=4, target_modules=["q_proj"], modules_to_save=layers
    )
    assert run(base, [adapter], tmp_path / "out") == 0
    assert read_model_folder(tmp_path / "out").config["tie_word_embeddings"] is False
    assert_same(tmp_path / "out", by_peft(base, [adapter]))


def test_own_layer_at_half_the_adapter_scale_is_the_average(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    assert run(tiny_folder, [tiny_adapters / "head"], tmp_path / "o", "--scale", "0.5") == 0
    name = "lm_head.weight"
    base = load_file(tiny_folder / "model.safetensors")[name]
    adapter_tensors = load_file(tiny_adapters / "head" / "adapter_model.safetensors")
    head = next(tensor for key, tensor in adapter_tensors.items() if "lm_head" in key)
    merged = load_file(tmp_path / "o" / "model.safetensors")[name]
    assert torch.allclose(merged, (base + head) / 2, atol=1e-6)


# Adapters with their own vocabulary


@pytest.fixture
def extended(tiny_adapters: Path) -> Path:
    return tiny_adapters / "extended"


def test_merge_takes_over_the_adapters_vocabulary(
    extended: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    out = tmp_path / "out"
    assert run(tiny_folder, [extended], out) == 0
    folder = read_model_folder(out)
    assert folder.config["vocab_size"] == 361
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == 361
    assert GenerationConfig.from_pretrained(out).eos_token_id == [tokenizer.eos_id]
    assert not (out / "tokenizer.json").exists()
    # The base's template has control tokens that this vocabulary lacks.
    assert "### Instruction" in (folder.chat_template or "")
    adapter_tensors = load_file(extended / "adapter_model.safetensors")
    tensors = load_file(out / "model.safetensors")
    for layer, name in (("embed_tokens", "model.embed_tokens.weight"), ("lm_head",) * 2):
        expected = next(tensor for key, tensor in adapter_tensors.items() if layer in key)
        found = next(tensor for key, tensor in tensors.items() if key.startswith(name))
        assert found.equal(expected)
    assert AutoModelForCausalLM.from_pretrained(out)(IDS + 30).logits.isfinite().all()
    assert main(["check", str(out)]) == 0


def test_merge_takes_over_the_last_of_two_vocabularies(
    extended: Path, tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    """As for Chinese-Alpaca-Plus: first Chinese-LLaMA-Plus, then its own adapter."""
    assert run(tiny_folder, [tiny_adapters / "whole", extended], tmp_path / "out") == 0
    assert read_model_folder(tmp_path / "out").config["vocab_size"] == 361


# Other files


def test_base_template_stays_if_the_tokenizer_is_replaced(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    """The template can be in the settings of the replaced tokenizer."""
    adapter = Path(shutil.copytree(tiny_adapters / "whole", tmp_path / "a"))
    shutil.copy(tiny_folder / "tokenizer.json", adapter)
    assert run(tiny_folder, [adapter], tmp_path / "out") == 0
    expected = read_model_folder(tiny_folder).chat_template
    assert expected
    assert read_model_folder(tmp_path / "out").chat_template == expected


def test_interrupted_merge_can_be_continued(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Layers merged before the interruption are not counted, and it is no error that the remaining
    ones are layers which the adapter does not change."""
    from model.folders import weight_writer

    monkeypatch.setattr("model.folders.weight_writer.SHARD_BYTES", 60_000)
    write, count = weight_writer._write_values, 0

    def interrupted(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 20:
            raise KeyboardInterrupt
        write(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weight_writer, "_write_values", interrupted)
        assert run(tiny_folder, [tiny_adapters / "qv"], tmp_path / "out") == 1
    assert "kept in" in capsys.readouterr().err
    assert run(tiny_folder, [tiny_adapters / "qv"], tmp_path / "out") == 0
    assert "since the interruption" in capsys.readouterr().out
    assert run(tiny_folder, [tiny_adapters / "qv"], tmp_path / "uninterrupted") == 0
    for file in (tmp_path / "uninterrupted").iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    "rename", [lambda name: name.removeprefix("model."), lambda name: f"{name}.unknown"]
)
def test_base_with_other_tensor_names_is_refused_before_writing(
    rename: Any, tiny_folder: Path, tiny_adapters: Path, tmp_path: Path, capsys: Capture
) -> None:
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    save_file(
        {rename(name): tensor for name, tensor in tensors.items()}, base / "model.safetensors"
    )
    assert run(base, [tiny_adapters / "qv"], tmp_path / "out") == 1
    assert "lacks" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_adapters_template_becomes_the_models_own(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(tiny_adapters / "qv", tmp_path / "a"))
    (adapter / "linly_adapter.json").write_text('{"template": "linly"}', encoding="utf-8")
    assert run(tiny_folder, [adapter], tmp_path / "out") == 0
    folder = read_model_folder(tmp_path / "out")
    assert folder.chat_template
    assert "User: " in folder.chat_template
    templates, default = available_templates(folder, read_settings([], {}))
    assert default == MODEL_TEMPLATE
    assert "User:" in templates[MODEL_TEMPLATE].stop


def test_adapters_own_template_and_tokenizer_are_taken_over(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    """Without stop strings, which belong to the templates in prompts/."""
    adapter = Path(shutil.copytree(tiny_adapters / "qv", tmp_path / "a"))
    edit_json(adapter / "linly_adapter.json", template=None)
    write_tokenizer(adapter)
    own = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    edit_json(adapter / "tokenizer_config.json", chat_template=own, eos_token="<|endoftext|>")
    assert run(tiny_folder, [adapter], tmp_path / "out") == 0
    folder = read_model_folder(tmp_path / "out")
    assert folder.chat_template == own
    assert folder.stop == ()
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos == "<|endoftext|>"
    base_ids = read_model_folder(tiny_folder).eos_ids
    assert tokenizer.eos_id not in base_ids
    from transformers import GenerationConfig

    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    assert generation.eos_token_id == [tokenizer.eos_id, *base_ids]


@pytest.mark.parametrize(
    ("flag", "dtype"),
    [("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32"), ("auto", "float32")],
)
def test_merged_weights_have_the_requested_dtype(
    flag: str, dtype: str, tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(tiny_folder, [tiny_adapters / "qv"], out, "--dtype", flag) == 0
    assert {str(t.dtype) for t in load_file(out / "model.safetensors").values()} == {
        f"torch.{dtype}"
    }
    assert read_model_folder(out).config["dtype"] == dtype


def test_merge_does_not_change_the_base(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in tiny_folder.iterdir()}
    assert run(tiny_folder, [tiny_adapters / "all"], tmp_path / "out") == 0
    assert {path.name: path.read_bytes() for path in tiny_folder.iterdir()} == before


# Errors


def with_scaled_b(adapter: Path, tmp_path: Path, factor: float) -> Path:
    """An adapter whose lora_B is multiplied."""
    path = Path(shutil.copytree(adapter, tmp_path / "scaled"))
    tensors = load_file(path / "adapter_model.safetensors")
    tensors = {name: t * factor if "lora_B" in name else t for name, t in tensors.items()}
    save_file(tensors, path / "adapter_model.safetensors")
    return path


@pytest.mark.parametrize(
    ("factor", "flags", "expected_text"),
    [
        (0.0, [], "every lora_B is zero"),
        (float("nan"), [], "not finite numbers"),
        (1e-12, ["--dtype", "bf16"], "changed no weight"),
        (1e9, ["--dtype", "fp16"], "has values that are not finite numbers"),
    ],
)
def test_failed_merge_leaves_no_files(
    factor: float, flags: list[str], expected_text: str, tiny_folder: Path, tiny_adapters: Path,
    tmp_path: Path, capsys: Capture,
) -> None:  # fmt: skip
    adapter = with_scaled_b(tiny_adapters / "qv", tmp_path, factor)
    assert run(tiny_folder, [adapter], tmp_path / "out", *flags) == 1
    assert expected_text in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["scaled"]


def test_other_base_is_refused_before_writing(
    tiny_adapters: Path, tmp_path: Path, capsys: Capture
) -> None:
    base = make_folder(tmp_path / "base", hidden_size=24)
    assert run(base, [tiny_adapters / "qv"], tmp_path / "out") == 1
    assert "belongs to another base" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("flags", "status", "expected_text"),
    [
        (["--scale", "1", "2"], 2, "2 numbers for 1 adapters"),
        (["--scale", "0"], 2, "'0' is not a strength"),
        (["--scale", "much"], 2, "'much' is not a strength"),
        (["--dtype", "int8"], 2, "invalid choice: 'int8'"),
    ],
)
def test_wrong_option_is_refused_with_one_sentence(
    flags: list[str], status: int, expected_text: str, tiny_folder: Path, tiny_adapters: Path,
    tmp_path: Path, capsys: Capture,
) -> None:  # fmt: skip
    assert run(tiny_folder, [tiny_adapters / "qv"], tmp_path / "out", *flags) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert expected_text in line


def test_close_names_are_suggested(tiny_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run(tiny_folder, ["lighthous"], tmp_path / "out") == 1
    assert "lighthouse" in capsys.readouterr().err
    assert run(tmp_path / "missing", ["lighthouse"], tmp_path / "out") == 1


def test_existing_files_are_not_overwritten(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "mine.txt").touch()
    assert run(tiny_folder, [tiny_adapters / "qv"], tmp_path) == 1
    assert "already exists" in capsys.readouterr().err


def test_full_disk_leaves_no_files(
    tiny_folder: Path, tiny_adapters: Path, tmp_path: Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("model.folders.weight_writer._write_values", full)
    assert run(tiny_folder, [tiny_adapters / "qv"], tmp_path / "out") == 1
    assert "The disk is full" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.real_model
@pytest.mark.slow
def test_merged_default_replies_as_with_the_adapter(default_folder: Path, tmp_path: Path) -> None:
    """Greedy replies of the merged model, and of the base with the adapter applied."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = tmp_path / "keeper"
    assert run(default_folder, ["lighthouse"], out, "--dtype", "fp32") == 0
    base = AutoModelForCausalLM.from_pretrained(default_folder, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, CHECKOUT / "adapters" / "lighthouse")
    merged = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    ids = [1, 4093, 198, 19556, 28, 732, 359, 346, 47, 2, 198, 1, 520, 9531, 198]
    options = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 2}
    tensor = torch.tensor([ids])
    assert merged.generate(tensor, **options).equal(adapted.generate(tensor, **options))
