"""A tokenizer for random weights: as many pieces as the model has rows, nearly all of them letters.

Byte-level BPE, LLaMA's control tokens first. Whatever a random model says is letters, so a server
sends something for every token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from string import ascii_lowercase

CONTROL = ("<unk>", "<s>", "</s>")
# Linly's own form.
TEMPLATE = (
    "{% for m in messages %}{{ 'User: ' if m['role'] == 'user' else 'Bot: ' }}{{ m['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}Bot: {% endif %}"
)


def write_tokenizer(folder: Path, pieces: int) -> None:
    """Write tokenizer.json and tokenizer_config.json with so many `pieces` into `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(islice(_merges(), pieces - len(CONTROL) - len(alphabet)))
    texts = [*CONTROL, *alphabet, *(left + right for left, right in merges)]
    vocabulary = {text: number for number, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(CONTROL))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": CONTROL[1], "eos_token": CONTROL[2], "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def _merges() -> Iterator[tuple[str, str]]:
    """Every string of two letters and more, the shorter ones first, as what it is merged from."""
    shorter = list(ascii_lowercase)
    while True:
        longer = []
        for left in shorter:
            for right in ascii_lowercase:
                yield left, right
                longer.append(left + right)
        shorter = longer
