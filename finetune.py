"""Train a LoRA adapter on chats: `python finetune.py --data_path chats.jsonl --output_dir DIR`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from model.settings import EMBEDDED_DEFAULT, read_settings
from model.types import LinlyError, SettingsError


def main(argv: list[str]) -> int:
    """Train; 0 when the adapter is written, 1 when it failed, 2 for wrong use."""
    options = build_parser().parse_args(argv)
    try:
        return run(options)
    except LinlyError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="finetune.py", description="Train a LoRA adapter on chats.", allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("--base_model", default=EMBEDDED_DEFAULT, help="a model folder, or the embedded default")
    add("--data_path", type=Path, required=True, help='JSON Lines of {"messages": [...]}')
    add("--output_dir", type=Path, required=True, help="the adapter's folder; must not exist")
    add(
        "--prompt_template_name", default=None, help="a template in prompts/ (default: the model's)"
    )
    add("--description", default="", help="one line about the adapter, for the page")
    add("--num_epochs", type=float, default=5, help="times to go through the data")
    add("--micro_batch_size", type=int, default=8, help="chats a step")
    add("--learning_rate", type=float, default=1e-3, help="highest learning rate")
    add("--cutoff_len", type=int, default=512, help="longest chat in tokens")
    add("--val_set_size", type=int, default=None, help="chats held out (default: one in ten)")
    add("--lora_r", type=int, default=16, help="rank")
    add("--lora_alpha", type=int, default=32, help="alpha")
    add("--seed", type=int, default=42, help="the same seed gives the same adapter")
    return parser


def _say_nothing(phase: object, share: float) -> None:
    """A base that is there already reports nothing worth a line."""


def run(options: argparse.Namespace) -> int:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a base that is not here is not trained on
    from model.folders.fingerprint import fingerprint
    from model.folders.model_folder import load_tokenizer, read_model_folder
    from model.startup import base_name, find_base, known_templates
    from training.data import encode_chats, read_chats
    from training.trainer import Recipe, train

    if options.output_dir.exists():
        raise SettingsError(f"{options.output_dir} exists already", "Remove it or name another.")
    chats = read_chats(options.data_path)
    settings = read_settings(["--base_model", options.base_model], os.environ)
    folder = read_model_folder(find_base(settings, _say_nothing))
    templates, default = known_templates(folder, settings)
    name = options.prompt_template_name or default
    if name not in templates:
        raise SettingsError(f"There is no template {name!r}", f"There are: {', '.join(templates)}.")
    examples = encode_chats(chats, templates[name], load_tokenizer(folder), options.cutoff_len)
    # Every tenth, so that the held-out chats are spread over the file.
    size = len(examples) // 10 if options.val_set_size is None else options.val_set_size
    if not 0 < size < len(examples):
        raise SettingsError(
            f"--val_set_size {size} with {len(examples)} chats", "Hold out fewer, at least one."
        )
    held_out = examples[:: len(examples) // size][:size]
    kept = [example for example in examples if example not in held_out]
    recipe = Recipe(
        rank=options.lora_r,
        alpha=options.lora_alpha,
        epochs=options.num_epochs,
        batch_size=options.micro_batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
    )
    card = {
        "template": name,
        "description": options.description,
        "base_model": base_name(settings),
        "fingerprint": fingerprint(folder),
    }
    result = train(folder.path, kept, held_out, options.output_dir, recipe, card)
    print(
        f"{options.output_dir}: {len(kept)} chats learned, {len(held_out)} held out; held-out loss "
        f"{result.held_out_before:.3f} before, {result.held_out_after:.3f} after"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
