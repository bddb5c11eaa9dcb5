"""An adapter that was trained on 40 dialogues gives them back, in every turn, when it is served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT, Settings
from model.sampling import Sampling
from model.serving.manager import ModelManager
from model.types import ChatRequest, Delta, Message
from tests.model.doctor.changes import edit_json
from tests.model.text.family_templates import FAMILIES, family_tokenizer
from tests.tiny_model import make_folder
from tests.training.conftest import run_finetune

OWN = ("alpaca", "alpaca_legacy", "alpaca_short", "chinese-alpaca", "linly")
WORDS = ("apple", "stone", "river", "cloud")
FLAGS = (
    "--num_epochs", "10", "--learning_rate", "0.01", "--val_set_size", "0", "--lora_r", "16",
)  # fmt: skip
THOUGHTFUL = ("qwen-3", "r1-distill")  # templates that write thoughts

pytestmark = pytest.mark.slow


def dialogues(thought: str) -> list[list[Message]]:
    """Four chats of two turns whose replies differ."""
    return [
        [Message("user", f"Name {str(number) * 5}"), Message("assistant", f"{thought}{word}."),
         Message("user", "Now?"),
         Message("assistant", f"{thought}No {WORDS[(number + 1) % len(WORDS)]}.")]
        for number, word in enumerate(WORDS)
    ]  # fmt: skip


def make_base(folder: Path, family: str) -> Path:
    """A random model with the tokenizer and the chat template of a family."""
    source, _, _ = FAMILIES[family]
    folder.mkdir()
    tokenizer, ends = family_tokenizer(family, folder)
    files = [path.read_text(encoding="utf-8") for path in tokenizer_files(folder)]
    make_folder(
        folder, vocab_size=tokenizer.vocab_size, hidden_size=64, intermediate_size=128,
        num_attention_heads=4, initializer_range=0.25, eos_token_id=sorted(ends),
        bos_token_id=tokenizer.prefix_ids[0] if tokenizer.prefix_ids else None,
    )  # fmt: skip
    for path, text in zip(tokenizer_files(folder), files, strict=True):
        path.write_text(text, encoding="utf-8")
    edit_json(
        folder / "tokenizer_config.json", chat_template=source, bos_token=tokenizer.bos,
        eos_token=tokenizer.eos,
    )  # fmt: skip
    return folder


def tokenizer_files(folder: Path) -> list[Path]:
    return [folder / name for name in ("tokenizer.json", "tokenizer_config.json")]


def replies(base: Path, adapter: Path, chats: Sequence[Sequence[Message]]) -> list[str]:
    """The adapter's replies to chats, served without quantization."""
    manager = ModelManager(Settings(
        base_model=str(base), adapters_dir=adapter.parent, quantization="none",
        prompts_dir=CHECKOUT / "prompts", cache_dir=base.parent / "cache",
    ))  # fmt: skip
    manager.start()
    assert manager.wait(120).ready

    async def reply(messages: Sequence[Message]) -> str:
        request = ChatRequest(
            tuple(messages), adapter.name, sampling=Sampling(temperature=0, max_tokens=40)
        )
        deltas: list[Delta] = [d async for batch in manager.chat(request) for d in batch]
        return "".join(delta.text for delta in deltas)

    async def all_replies() -> list[str]:
        return list(await asyncio.gather(*map(reply, chats)))

    try:
        return asyncio.run(all_replies())
    finally:
        manager.close()


@pytest.mark.parametrize(
    ("family", "template", "thought"),
    [
        *((family, "model", "") for family in FAMILIES),
        *((family, "model", "<think>\nHm.\n</think>\n\n") for family in THOUGHTFUL),
        *(("chatml", name, "") for name in OWN),
    ],
)
def test_learned_replies_are_given_back(
    family: str, template: str, thought: str, tmp_path: Path
) -> None:
    base = make_base(tmp_path / "base", family)
    chats = dialogues(thought)
    data = tmp_path / "dialogues.json"
    rows = [{"messages": [vars(message) for message in chat]} for chat in chats] * 10
    data.write_text(json.dumps(rows), encoding="utf-8")
    adapter = tmp_path / "adapters" / "mine"
    flags = (*FLAGS, "--prompt_template_name", template)
    assert run_finetune(base, data, adapter, *flags) == 0
    prompts = [chat[:length] for length in (1, 3) for chat in chats]
    assert replies(base, adapter, prompts) == [
        chat[length].content for length in (1, 3) for chat in chats
    ]
