"""Other formats to a folder in the Hugging Face layout.

So far GGUF of the llama architecture, through transformers, which reads the tokenizer and the
chat template out of it too. Run as a program (`python -m model.convert`) it keeps the memory that
a conversion takes out of the server's process.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from model.types import ModelFolderError


def convert_in_subprocess(source: Path, destination: Path) -> None:
    """`convert_gguf` in a process of its own.

    Raises:
        ModelFolderError: it failed; with the last line that it said.
    """
    command = [sys.executable, "-m", "model.convert", str(source), str(destination)]
    checkout = Path(__file__).parent.parent
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise ModelFolderError(
            f"Converting {source.name} failed: {said[-1]}", "Free memory and disk, then try again."
        )


def convert_gguf(source: Path, destination: Path) -> None:
    """Write `source` as safetensors in bfloat16 with its tokenizer into the folder `destination`.

    The folder appears whole or not at all. If another process made it meanwhile, that one stays.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    try:
        _write_folder(source, partial)
        partial.chmod(0o755)  # mkdtemp's are private, safetensors' too; a folder is for sharing
        for file in partial.iterdir():
            file.chmod(0o644)
        if not destination.exists():
            partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_folder(source: Path, folder: Path) -> None:
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


if __name__ == "__main__":
    convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
