"""Other formats to a folder in the Hugging Face layout.

GGUF of the llama architecture goes through transformers, which reads the tokenizer and the chat
template out of it too; Linly's own checkpoints through `model.tencent`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from model.types import ModelFolderError


def convert(source: Path, destination: Path, tokenizer: Path | None, heads: int | None) -> None:
    """Convert `source` into the folder `destination`, which appears whole or not at all.

    `tokenizer` is the SentencePiece model that belongs to a TencentPretrain checkpoint.

    Raises:
        ModelFolderError: it cannot be done.
    """
    if not source.is_file():
        raise ModelFolderError(f"There is no file {source}", "Pass a .gguf or a .bin file.")
    if destination.exists():
        raise ModelFolderError(f"{destination} exists already", "Remove it or name another folder.")
    if source.suffix == ".gguf":
        whole_or_nothing(destination, partial(_write_gguf, source))
        return
    if tokenizer is None or not tokenizer.is_file():
        raise ModelFolderError(
            f"{source.name} needs its tokenizer", "Pass --tokenizer with the .model file beside it."
        )
    from model import tencent

    write = partial(tencent.write_folder, source, tokenizer=tokenizer, heads=heads)
    whole_or_nothing(destination, lambda folder: write(folder=folder))


def convert_in_subprocess(source: Path, destination: Path) -> None:
    """`convert` a GGUF file in a process of its own, which takes its memory along when it ends.

    If another process made `destination` meanwhile, that one stays.

    Raises:
        ModelFolderError: it failed; with the last line that it said.
    """
    # The child starts in another folder, where relative paths would mean something else.
    paths = [str(path.resolve()) for path in (source, destination)]
    command = [sys.executable, "-m", "model", "convert", *paths]
    checkout = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode and not destination.exists():
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ModelFolderError(
            f"Converting {source.name} failed: {said[-1]}", "Free memory and disk, then try again."
        )


def whole_or_nothing(destination: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `destination`, check it, and move it there."""
    from model.folder import load_tokenizer, read_model_folder

    destination.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent)
    partial_folder = Path(scratch)
    try:
        write(partial_folder)
        load_tokenizer(read_model_folder(partial_folder))
        partial_folder.chmod(0o755)  # mkdtemp's are private, safetensors' files too
        for file in partial_folder.iterdir():
            file.chmod(0o644)
        partial_folder.rename(destination)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _write_gguf(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokenizer.save_pretrained(folder)
