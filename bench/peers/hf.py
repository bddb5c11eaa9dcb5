"""transformers and PEFT as people use them without a server, in a process of its own.

Over pipes instead of HTTP, which flatters it a little. Several questions are one padded batch with
PEFT's `adapter_names`, so all of them wait for the longest prompt and end together.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from bench.peers.base import BenchFixtures, PeerReply, Question
from bench.peers.child import Child
from bench.peers.process_peer import ProcessPeer

STEP = "."


class HuggingFace(ProcessPeer):
    """`generate` in bfloat16 or float32; `auto` takes whichever decodes faster here."""

    name = "hf"
    most_users = 12
    most_adapters = 3

    def __init__(self, stage: BenchFixtures, dtype: str = "auto") -> None:
        super().__init__()
        self._stage = stage
        self._dtype = dtype

    def start(self) -> str:
        stage = self._stage
        command = [sys.executable, "-m", "bench.peers.hf_worker", str(stage.base)]
        command += ["--dtype", self._dtype, "--threads", str(stage.threads)]
        command += [word for p in stage.paths(self.most_adapters) for word in ("--lora", str(p))]
        self.child = Child(command, stage.scratch / f"{self.name}.log")
        return f"transformers + PEFT without a server, {self.child.read()}"

    def ask(self, questions: Sequence[Question]) -> list[PeerReply]:
        if self.child is None:
            raise RuntimeError("start comes first")
        began = time.perf_counter()
        self.child.write(json.dumps([asdict(question) for question in questions]))
        steps: list[float] = []
        while (line := self.child.read()) == STEP:
            steps.append(time.perf_counter() - began)
        texts = json.loads(line)
        return [PeerReply(text, steps[0], steps[-1], len(steps)) for text in texts]


class BitsAndBytes(HuggingFace):
    """The same with bitsandbytes' LLM.int8, for one user."""

    name = "bnb"
    most_users = 1
    most_adapters = 1

    def __init__(self, stage: BenchFixtures) -> None:
        super().__init__(stage, "int8")
