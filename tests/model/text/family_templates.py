"""Chat templates in the form of the model families', with the control tokens that they use."""

from __future__ import annotations

import json
from pathlib import Path

from model.text.fast_tokenizer import FastTokenizer
from tests.model.text.chats import CHATML, LLAMA_2
from tests.tiny_model import write_tokenizer

LLAMA_3 = (
    "{% for m in messages %}{% set content = '<|start_header_id|>' + m['role'] +"
    " '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}" + CHATML
)
QWEN_3 = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}"
    "{% set content = m.content %}{% set thought = '' %}"
    "{% if m.role == 'assistant' and '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\n') %}"
    "{% set thought = thought.split('<think>')[-1].lstrip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' }}{% if thought and loop.index0 > ns.last %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}{{ content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
R1_DISTILL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '<|User|>' + m['content'] }}{% elif m['role'] == 'assistant' %}"
    "{% set content = m['content'] %}{% if '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "{{ '<|Assistant|>' + content + eos_token }}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
# By family: the template, its control tokens, and those at which a reply ends.
FAMILIES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "chatml": (CHATML, (), ("<|im_end|>",)),
    "llama-2": (LLAMA_2, ("<s>", "</s>"), ("</s>",)),
    "llama-3": (
        LLAMA_3,
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        ("<|eot_id|>",),
    ),
    "mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), ("</s>",)),
    "qwen": (QWEN, (), ("<|im_end|>",)),
    "qwen-3": (QWEN_3, ("<think>", "</think>"), ("<|im_end|>",)),
    "r1-distill": (R1_DISTILL, ("<s>", "</s>", "<|User|>", "<|Assistant|>"), ("</s>",)),
    "gemma": (
        GEMMA,
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        ("<eos>", "<end_of_turn>"),
    ),
    "phi": (PHI, ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"), ("<|end|>", "</s>")),
}
SPECIAL = {
    "llama-3": ("<|begin_of_text|>", "<|eot_id|>"), "gemma": ("<bos>", "<eos>"),
}  # fmt: skip


def family_tokenizer(family: str, folder: Path) -> tuple[FastTokenizer, frozenset[int]]:
    """Byte-level BPE with the family's control tokens, and the ids at which a reply ends."""
    _, control, ends = FAMILIES[family]
    write_tokenizer(folder)
    path = folder / "tokenizer.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    size = len(data["model"]["vocab"])
    data["added_tokens"] += [
        {"id": size + i, "content": token, "special": True, "normalized": False, "lstrip": False,
         "rstrip": False, "single_word": False}
        for i, token in enumerate(control)
    ]  # fmt: skip
    path.write_text(json.dumps(data), encoding="utf-8")
    is_chatml = "<s>" not in control and family not in SPECIAL
    bos, eos = ("<|im_start|>", "<|im_end|>") if is_chatml else SPECIAL.get(family, ("<s>", "</s>"))
    tokenizer = FastTokenizer(path, bos, eos)
    ids = (next(i for i in range(tokenizer.vocab_size) if tokenizer.token_text(i) == end)
           for end in ends)  # fmt: skip
    return tokenizer, frozenset(ids)
