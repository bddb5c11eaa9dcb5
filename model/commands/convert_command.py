"""`python -m model convert SOURCE DEST`: converts a model to the Hugging Face layout."""

from __future__ import annotations

import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from model.folders.atomic_folder import interruption_message
from model.program import interruptible
from model.progress_bar import bar

DESCRIPTION = """\
Convert a model into a folder in the Hugging Face layout, with safetensors and a tokenizer that
fits. SOURCE is a GGUF file of the llama architecture, a TencentPretrain LLaMA checkpoint (.bin, as
Linly publishes them), a folder with one of these or with pytorch_model.bin, or any of these on the
hub: an id (org/name), or one file of it (org/name/file.gguf). DEST appears when it is complete. To
continue an interrupted conversion, run the same command again.
"""


def add_to(commands: Any) -> None:
    command = commands.add_parser(
        "convert",
        help="convert another format to a model folder",
        description=DESCRIPTION,
        allow_abbrev=False,
    )
    add = command.add_argument
    add("source", metavar="SOURCE", help="file, folder or hub id")
    add(
        "destination",
        type=Path,
        metavar="DEST",
        help="folder to create; it must be empty or not exist yet",
    )
    add(
        "--tokenizer", type=Path, metavar="FILE",
        help="tokenizer.model, needed for a .bin without a .model file beside it; tokenizer.json "
        "for a .gguf that does not say how its tokenizer splits text",
    )  # fmt: skip
    add(
        "--config", type=Path, metavar="FILE",
        help="JSON file with settings that the weights do not contain, such as "
        "num_attention_heads; TencentPretrain's own configuration files work, too",
    )  # fmt: skip
    command.set_defaults(run=run)


def run(options: Namespace) -> int:
    from model.convert import convert

    destination: Path = options.destination
    try:
        with interruptible():
            convert(
                options.source, destination, tokenizer=options.tokenizer, config=options.config,
                bar=bar, log=lambda sentence: print(sentence, flush=True),
            )  # fmt: skip
    except KeyboardInterrupt:
        print(interruption_message(destination), file=sys.stderr)
        return 1
    print(f"{destination} is ready: python app.py --base_model {shlex.quote(str(destination))}")
    return 0
