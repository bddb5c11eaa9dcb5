"""Greedy replies in full precision equal transformers + PEFT, token for token, in every batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from model.__main__ import main
from model.config.settings import CHECKOUT
from model.doctor.vocabulary import adapter_tokenizer
from model.engine.kv_cache import SequenceCache
from model.layers.llama import SequenceSlice
from tests.model.engine.running import Ids, Running, running
from tests.tiny_model import make_adapter, make_folder

# The adapter "extended" has settings of the peft of 2023.
pytestmark = pytest.mark.filterwarnings("ignore:Unexpected keyword arguments.*enable_lora")

TOKENS = 24


def reference(base: Path, adapters: Path, jobs: list[tuple[Ids, str | None]]) -> list[Ids]:
    """The replies of transformers' generate, one at a time, with PEFT's adapters."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    base_replies = [_generate(model, prompt) if adapter is None else () for prompt, adapter in jobs]
    replies = []
    for (prompt, adapter), base_reply in zip(jobs, base_replies, strict=True):
        if adapter is None:
            replies.append(base_reply)
            continue
        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        tokenizer = adapter_tokenizer(adapters / adapter)
        if tokenizer is not None:
            fresh.resize_token_embeddings(tokenizer.vocab_size, mean_resizing=False)
        replies.append(_generate(PeftModel.from_pretrained(fresh, adapters / adapter), prompt))
    return replies


def _generate(model: torch.nn.Module, prompt: Ids) -> Ids:
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=TOKENS,
            do_sample=False, eos_token_id=None, pad_token_id=0, repetition_penalty=1.0,
        )  # fmt: skip
    return tuple(out[0, len(prompt) :].tolist())


def prompts(count: int, vocab: int, longest: int) -> list[Ids]:
    """Random prompts of different lengths."""
    generator = torch.Generator().manual_seed(7)
    lengths = [3 + (longest - 3) * i // max(count - 1, 1) for i in range(count)]
    return [tuple(torch.randint(3, vocab, (n,), generator=generator).tolist()) for n in lengths]


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path, tiny_adapters: Path) -> Iterator[Running]:
    with running(tiny_folder, tiny_adapters) as engine:
        yield engine


ADAPTERS = [None, "qv", "all", "rs", "patterned", "head", "whole", "extended"]


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_reply_alone_is_the_reference(
    tiny: Running, tiny_folder: Path, tiny_adapters: Path, adapter: str | None
) -> None:
    (prompt,) = prompts(1, 320, 12)
    (expected,) = reference(tiny_folder, tiny_adapters, [(prompt, adapter)])
    assert tiny.ask(prompt, adapter).wait().ids == expected


def test_replies_in_a_batch_are_the_reference(
    tiny: Running, tiny_folder: Path, tiny_adapters: Path
) -> None:
    """Every adapter and the base, twice, with prompts of all lengths, one longer than a chunk."""
    jobs = list(zip(prompts(16, 320, 400), ADAPTERS * 2, strict=True))
    replies = [tiny.ask(prompt, adapter, name=f"{i}") for i, (prompt, adapter) in enumerate(jobs)]
    expected = reference(tiny_folder, tiny_adapters, jobs)
    assert [reply.wait().ids for reply in replies] == expected


def test_an_adapters_own_vocabulary_is_used(tiny: Running) -> None:
    """Ids that only the adapter has are chosen, and accepted in a prompt."""
    replies = [tiny.ask(prompt, "extended").wait().ids for prompt in prompts(8, 361, 60)]
    assert any(token >= 320 for reply in replies for token in reply)
    assert all(token < 361 for reply in replies for token in reply)


def test_logits_of_another_vocabulary_are_minus_infinity(tiny: Running) -> None:
    adapter = tiny.registry.get("extended")
    lora = tiny.registry.load("extended", adapter.digest, tiny.model)
    caches = [SequenceCache(tiny.model.cache_format) for _ in range(2)]
    logits = tiny.model.forward(
        [SequenceSlice([5, 6], caches[0]), SequenceSlice([5, 360], caches[1], lora)]
    )
    assert logits.shape == (2, 361)
    assert (logits[0, 320:] == -torch.inf).all()
    assert logits[0, :320].isfinite().all()
    assert logits[1].isfinite().all()


def test_the_adapters_differ(tiny: Running) -> None:
    """Without it, the tests above would pass if neither side applied an adapter."""
    (prompt,) = prompts(1, 320, 12)
    replies = [tiny.ask(prompt, adapter).wait().ids for adapter in ADAPTERS]
    assert len(set(replies)) == len(ADAPTERS)


@pytest.mark.parametrize("adapter", ["all", "whole", "extended"])
def test_adapter_scale_zero_is_the_base(tiny: Running, adapter: str) -> None:
    (prompt,) = prompts(1, 320, 12)
    assert tiny.ask(prompt, adapter, adapter_scale=0).wait().ids == tiny.ask(prompt).wait().ids


def test_adapter_scale_one_half_halves_the_update(
    tiny: Running, tiny_folder: Path, tiny_adapters: Path
) -> None:
    (prompt,) = prompts(1, 320, 12)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32),
        tiny_adapters / "all",
    )
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] /= 2
    assert tiny.ask(prompt, "all", adapter_scale=0.5).wait().ids == _generate(model, prompt)


RELATIVES = {
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "one kv head": {"num_key_value_heads": 1},
    "as many kv heads": {"num_key_value_heads": 6},
    "wide heads": {"head_dim": 16},
    "odd heads": {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 42},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "rope_theta": 5e5,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        }
    },
    "yarn rope": {
        "rope_parameters": {
            "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
            "original_max_position_embeddings": 128,
        }
    },
    "dynamic rope": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    "longrope": {
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 512,
            "short_factor": [1.0, 1.1, 1.3, 2.0], "long_factor": [1.0, 4.0, 9.0, 30.0],
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("config", RELATIVES.values(), ids=RELATIVES)
def test_relatives_of_llama_are_the_reference(tmp_path: Path, config: dict[str, object]) -> None:
    base = make_folder(tmp_path / "base", seed=5, **config)
    make_adapter(base, tmp_path / "adapters" / "a", seed=6, r=4, target_modules="all-linear")
    jobs = list(zip(prompts(2, 320, 90), (None, "a"), strict=True))
    with running(base, tmp_path / "adapters") as engine:
        replies = [engine.ask(prompt, adapter) for prompt, adapter in jobs]
        got = [reply.wait().ids for reply in replies]
    assert got == reference(base, tmp_path / "adapters", jobs)


def with_own_head(base: Path) -> Path:
    """Writes a tied config.json beside a head that differs from the embedding."""
    file = base / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "tie_word_embeddings": True}), encoding="utf-8")
    return base


def test_head_that_differs_is_used_beside_a_tied_config(tmp_path: Path) -> None:
    """transformers keeps it, too. Converted, merged and with an adapter it stays."""
    base = with_own_head(make_folder(tmp_path / "base", seed=5))
    adapter = make_adapter(
        base, tmp_path / "adapters" / "a", seed=6, r=4, target_modules=["q_proj"]
    )
    jobs = list(zip(prompts(2, 320, 90), (None, "a"), strict=True))
    expected = reference(base, tmp_path / "adapters", jobs)
    names = ["--base_model", str(base), "--lora_model", str(adapter)]
    assert main(["merge", *names, "--output_dir", str(tmp_path / "merged")]) == 0
    with running(base, tmp_path / "adapters") as engine:
        assert [engine.ask(prompt, name).wait().ids for prompt, name in jobs] == expected
    with running(tmp_path / "merged", tmp_path / "none") as engine:
        assert engine.ask(jobs[1][0]).wait().ids == expected[1]
    tensors = load_file(base / "model.safetensors")
    torch.save(tensors, base / "pytorch_model.bin")
    (base / "model.safetensors").unlink()
    assert main(["convert", str(base), str(tmp_path / "converted")]) == 0
    with running(tmp_path / "converted", tmp_path / "none") as engine:
        assert engine.ask(jobs[0][0]).wait().ids == expected[0]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("layers", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
def test_adapter_layers_over_a_tied_base_are_the_reference(
    tmp_path: Path, layers: list[str], tied: bool
) -> None:
    base = make_folder(tmp_path / "base", seed=5, tie_word_embeddings=True)
    make_adapter(
        base, tmp_path / "adapters" / "a", seed=6, r=4, target_modules=["q_proj"],
        modules_to_save=layers, ensure_weight_tying=tied,
    )  # fmt: skip
    jobs = list(zip(prompts(3, 320, 90), (None, "a", "a"), strict=True))
    with running(base, tmp_path / "adapters") as engine:
        replies = [engine.ask(prompt, adapter) for prompt, adapter in jobs]
        got = [reply.wait().ids for reply in replies]
    assert got == reference(base, tmp_path / "adapters", jobs)


@pytest.mark.real_model
@pytest.mark.slow
def test_the_embedded_default_is_the_reference(default_folder: Path) -> None:
    """The base and every shipped adapter, alone and with four at once."""
    names = [path.parent.name for path in sorted((CHECKOUT / "adapters").glob("*/*config.json"))]
    assert names
    adapters = [None, *names, None, *names][:4]
    jobs = list(zip(prompts(4, 49152, 40), adapters, strict=True))
    expected = reference(default_folder, CHECKOUT / "adapters", jobs)
    with running(default_folder, CHECKOUT / "adapters") as engine:
        alone = [engine.ask(prompt, adapter).wait().ids for prompt, adapter in jobs]
        together = [engine.ask(prompt, adapter, name=f"{i}") for i, (prompt, adapter) in
                    enumerate(jobs)]  # fmt: skip
        assert alone == expected
        assert [reply.wait().ids for reply in together] == expected
    assert all(a != b for a, b in pairwise(expected))
