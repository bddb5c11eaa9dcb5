"""The process behind the peers hf and bnb: batches of questions in, replies out, through pipes.

Its first line of output says what it runs in. Then every line of input is a JSON list of
questions (`bench.peers.base.Question`), answered with a line `.` for each step of decoding and a
JSON list of the replies' texts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
    StoppingCriteria,
)

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
BASE = "__base__"  # PEFT's name in `adapter_names`
TRIAL_TOKENS = 12
Questions = list[dict[str, Any]]


class Steps(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing; says that a step of decoding is done."""

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        print(".", flush=True)
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Worker:
    """A model with its adapters, and the cache of the last question asked alone."""

    def __init__(self, base: Path, model: Any, adapters: list[Path]) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._names = [path.name for path in adapters]
        self._model = with_adapters(model, adapters).eval()
        self._kept: tuple[int | None, list[int], Any] = (None, [], None)

    def answer(self, questions: Questions) -> list[str]:
        """Greedy replies to one batch; a line is printed for every step."""
        chats = [question["turns"] for question in questions]
        inputs = self._tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            whole = self._generate(inputs, questions)
        return list(self._tokenizer.batch_decode(whole[:, length:], skip_special_tokens=True))

    def _generate(self, inputs: Any, questions: Questions) -> torch.Tensor:
        tokens, exact = questions[0]["tokens"], questions[0]["exact"]
        options = {
            "max_new_tokens": tokens,
            "min_new_tokens": tokens if exact else 1,
            "do_sample": False,
            "stopping_criteria": [Steps()],
            "return_dict_in_generate": True,
        }
        wanted = {question["adapter"] for question in questions}
        if len(wanted) > 1:
            chosen = [self._name(question["adapter"]) for question in questions]
            return self._model.generate(**inputs, **options, adapter_names=chosen).sequences
        with self._only(wanted.pop()):
            if len(questions) > 1:
                return self._model.generate(**inputs, **options).sequences
            return self._alone(inputs, options, questions[0]["adapter"])

    def _alone(self, inputs: Any, options: dict[str, Any], adapter: int | None) -> torch.Tensor:
        """One question: what the last one's cache holds of its prompt is not computed again."""
        ids = inputs["input_ids"][0].tolist()
        cache = self._cache(adapter, ids)
        done = self._model.generate(**inputs, **options, past_key_values=cache)
        filled = done.sequences[0, : cache.get_seq_length()].tolist()
        self._kept = (adapter, filled, cache)
        return done.sequences

    def _cache(self, adapter: int | None, ids: list[int]) -> Any:
        kept_adapter, kept, cache = self._kept
        same = next((i for i, (a, b) in enumerate(zip(ids, kept, strict=False)) if a != b), None)
        length = min(len(ids), len(kept)) if same is None else same
        length = min(length, len(ids) - 1)  # the last token's logits are needed
        if cache is None or kept_adapter != adapter or length == 0:
            return DynamicCache()
        cache.crop(length - cache.get_seq_length())  # negative: so many fewer
        return cache

    def _name(self, adapter: int | None) -> str:
        return BASE if adapter is None else self._names[adapter]

    def _only(self, adapter: int | None) -> Any:
        if adapter is None:
            return self._model.disable_adapter()
        self._model.set_adapter(self._names[adapter])
        return nullcontext()


def with_adapters(model: Any, adapters: list[Path]) -> Any:
    """`model` under PEFT, the adapters in the model's own type."""
    first, *others = adapters
    plain = {"autocast_adapter_dtype": False}
    adapted = PeftModel.from_pretrained(model, first, adapter_name=first.name, **plain)
    for path in others:
        adapted.load_adapter(path, adapter_name=path.name, **plain)
    return adapted


def load(base: Path, dtype: str) -> tuple[Any, str]:
    """The model, and what it runs in."""
    if dtype == "int8":
        eight_bit = BitsAndBytesConfig(load_in_8bit=True)
        # With bfloat16 bitsandbytes converts, and warns, at every layer of every token.
        model = AutoModelForCausalLM.from_pretrained(
            base, quantization_config=eight_bit, dtype=torch.float16
        )
        return model, "LLM.int8 of bitsandbytes"
    if dtype == "auto":
        dtype = min(DTYPES, key=lambda name: trial(base, name))
    return AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype]), dtype


def trial(base: Path, dtype: str) -> float:
    """Seconds that some tokens take."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype])
    ids = torch.ones(1, 8, dtype=torch.long)
    seconds = 0.0
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            min_new_tokens=TRIAL_TOKENS, max_new_tokens=TRIAL_TOKENS,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--dtype", choices=["auto", *DTYPES, "int8"], default="auto")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--lora", type=Path, action="append", required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, said = load(options.base, options.dtype)
    worker = Worker(options.base, model, options.lora)
    print(said, flush=True)
    for line in sys.stdin:
        texts = worker.answer(json.loads(line))
        print(json.dumps(texts), flush=True)


if __name__ == "__main__":
    main()
