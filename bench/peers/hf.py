"""transformers with PEFT as a peer, used without a server, as most scripts do.

`python -m bench.peers.hf BASE` is the peer's process. It prints its dtype in one line. Then it
answers each line of input, a JSON list of `Question`s, with a line `.` for each decoding step and a
JSON list of the replies' texts. Pipes instead of HTTP make it a little faster. Several questions
are one padded batch with PEFT's `adapter_names`: they wait for the longest prompt and end together.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.common import seconds_of
from bench.peers.base import BenchFixtures, ChildProcess, Peer, PeerReply, Question

if TYPE_CHECKING:
    import torch

STEP = "."
DTYPES = ("bfloat16", "float32")
BASE = "__base__"  # PEFT's name of the base in `adapter_names`
TRIAL_TOKENS = 12
Questions = list[dict[str, Any]]


class HuggingFace(Peer):
    """`generate` in bfloat16 or float32; `auto` tries which one decodes faster here."""

    name = "hf"
    max_users = 12
    max_adapters = 3

    def __init__(self, fixtures: BenchFixtures, dtype: str = "auto") -> None:
        super().__init__(fixtures)
        self._dtype = dtype

    def start(self) -> str:
        adapters = self.fixtures.paths(self.max_adapters)
        command = [
            *(sys.executable, "-m", "bench.peers.hf", str(self.fixtures.base)),
            *("--dtype", self._dtype, "--threads", str(self.fixtures.threads)),
            *(word for path in adapters for word in ("--lora", str(path))),
        ]
        self.child = ChildProcess(command, self.fixtures.scratch / f"{self.name}.log")
        return f"transformers + PEFT without a server, {self.child.read()}"

    def ask(self, questions: Sequence[Question]) -> list[PeerReply]:
        if self.child is None:
            raise RuntimeError("the peer has not been started")
        began = time.perf_counter()
        self.child.write(json.dumps([asdict(question) for question in questions]))
        steps: list[float] = []
        while (line := self.child.read()) == STEP:
            steps.append(time.perf_counter() - began)
        return [PeerReply(text, steps[0], steps[-1], len(steps)) for text in json.loads(line)]


class BitsAndBytes(HuggingFace):
    """The same with bitsandbytes' LLM.int8, for one user."""

    name = "bnb"
    max_users = 1
    max_adapters = 1

    def __init__(self, fixtures: BenchFixtures) -> None:
        super().__init__(fixtures, "int8")


class Worker:
    """A model with its adapters, and the KV cache of the last question that came alone."""

    def __init__(self, base: Path, model: Any, adapters: list[Path]) -> None:
        from transformers import AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._names = [path.name for path in adapters]
        self._model = with_adapters(model, adapters).eval()
        self._cached: tuple[int | None, list[int], Any] = (None, [], None)

    def answer(self, questions: Questions) -> list[str]:
        """Greedy replies to one batch; prints a line for every decoding step."""
        import torch

        chats = [question["turns"] for question in questions]
        inputs = self._tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        length = inputs["input_ids"].shape[1]
        with torch.inference_mode():
            sequences = self._generate(inputs, questions)
        return list(self._tokenizer.batch_decode(sequences[:, length:], skip_special_tokens=True))

    def _generate(self, inputs: Any, questions: Questions) -> torch.Tensor:
        tokens, exact = questions[0]["tokens"], questions[0]["exact"]
        options = {
            **inputs,
            "max_new_tokens": tokens,
            "min_new_tokens": tokens if exact else 1,
            "do_sample": False,
            "stopping_criteria": [_print_step],
            "return_dict_in_generate": True,
        }
        adapters = [question["adapter"] for question in questions]
        if len(set(adapters)) > 1:
            names = [BASE if a is None else self._names[a] for a in adapters]
            return self._model.generate(**options, adapter_names=names).sequences
        with self._selected(adapters[0]):
            if len(questions) > 1:
                return self._model.generate(**options).sequences
            return self._generate_cached(options, adapters[0])

    def _generate_cached(self, options: dict[str, Any], adapter: int | None) -> torch.Tensor:
        """One question; the prefix that it shares with the last one is not computed again."""
        cache = self._cache_for(adapter, options["input_ids"][0].tolist())
        sequences = self._model.generate(**options, past_key_values=cache).sequences
        self._cached = adapter, sequences[0, : cache.get_seq_length()].tolist(), cache
        return sequences

    def _cache_for(self, adapter: int | None, ids: list[int]) -> Any:
        from transformers import DynamicCache

        cached_adapter, cached, cache = self._cached
        pairs = enumerate(zip(ids, cached, strict=False))
        length = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(cached)))
        length = min(length, len(ids) - 1)  # the last token's logits are needed
        if cache is None or cached_adapter != adapter or length == 0:
            return DynamicCache()
        cache.crop(length - cache.get_seq_length())  # a negative number removes from the end
        return cache

    def _selected(self, adapter: int | None) -> AbstractContextManager[Any]:
        if adapter is None:
            return self._model.disable_adapter()
        self._model.set_adapter(self._names[adapter])
        return nullcontext()


def _print_step(input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Stopping criterion that never stops, and reports each decoding step."""
    print(STEP, flush=True)
    return input_ids.new_zeros(len(input_ids)).bool()


def with_adapters(model: Any, adapters: list[Path]) -> Any:
    """`model` under PEFT, with the adapters in the model's own dtype."""
    from peft import PeftModel

    first, *others = adapters
    options = {"autocast_adapter_dtype": False}
    adapted = PeftModel.from_pretrained(model, first, adapter_name=first.name, **options)
    for path in others:
        adapted.load_adapter(path, adapter_name=path.name, **options)
    return adapted


def load_hf_model(base: Path, dtype: str) -> tuple[Any, str]:
    """The model, and what it computes in."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    if dtype == "int8":
        # With bfloat16 bitsandbytes converts, and warns, at every layer of every token.
        config = BitsAndBytesConfig(load_in_8bit=True)
        options = {"quantization_config": config, "dtype": "float16"}
        model = AutoModelForCausalLM.from_pretrained(base, **options)
        return model, "LLM.int8 of bitsandbytes"
    if dtype == "auto":
        dtype = min(DTYPES, key=lambda name: decoding_seconds(base, name))
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype), dtype


def decoding_seconds(base: Path, dtype: str) -> float:
    """Time of a short reply in `dtype`, after a first one that warms up."""
    import torch

    model, _ = load_hf_model(base, dtype)
    ids = torch.ones(1, 8, dtype=torch.long)
    options = {"min_new_tokens": TRIAL_TOKENS, "max_new_tokens": TRIAL_TOKENS, "do_sample": False}

    def generate() -> None:
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)

    generate()
    return seconds_of(generate)


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--dtype", choices=["auto", *DTYPES, "int8"], default="auto")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--lora", type=Path, action="append", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, dtype = load_hf_model(args.base, args.dtype)
    worker = Worker(args.base, model, args.lora)
    print(dtype, flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
