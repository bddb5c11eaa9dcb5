"""Makes models that are small enough for a test, and adapters for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCAB = 320
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = ["The quick brown fox jumps over the lazy dog.", "你好，世界！今天天气很好。", "x = 1 + 2\n"]


def make_folder(folder: Path, seed: int = 0, **config: Any) -> Path:
    """A random LLaMA in the Hugging Face layout. `config` overrides its sizes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.3,  # large, so that the likeliest token stands out
    }
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **config}))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE tokenizer with ChatML's control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=CONTROL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": CONTROL[1], "eos_token": CONTROL[2], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def make_adapter(base: Path, folder: Path, seed: int, **lora: Any) -> Path:
    """A PEFT adapter for `base` with random weights in both matrices and in layers of its own.

    `lora` goes to LoraConfig.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_alpha=16, **lora))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        if "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return folder


def make_extended_adapter(base: Path, folder: Path) -> Path:
    """An adapter like Chinese-Alpaca's: embedding and head of another size, a SentencePiece
    tokenizer with a pad token after its pieces, and settings that today's peft does not know."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tests.model.tokenizers import LIKE_LLAMA, write_spm

    rows = int(LIKE_LLAMA["vocab_size"]) + 1
    torch.manual_seed(9)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(rows, mean_resizing=False)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=4, target_modules=["q_proj"],
        modules_to_save=["embed_tokens", "lm_head"],
    )  # fmt: skip
    adapted = get_peft_model(model, lora)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder, save_embedding_layers=True)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    old = {**config, "enable_lora": None, "merge_weights": False}
    (folder / "adapter_config.json").write_text(json.dumps(old), encoding="utf-8")
    write_spm(folder / "tokenizer.model", **LIKE_LLAMA)
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": rows - 1}), encoding="utf-8")
    return folder
