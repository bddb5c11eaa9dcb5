"""What a model folder holds, and where to find one by name.

Reading a folder checks what would otherwise fail later with a stack trace or, worse, as garbage
text: the family, the files, the tokenizer's size against the weights.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.tokenizer import FastTokenizer, SpmTokenizer, Tokenizer
from model.types import ModelFolderError

ARCHITECTURES = {"LlamaForCausalLM", "LLaMAForCausalLM"}  # the second is what early files say
# In the order in which transformers prefers them.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class ModelFolder:
    """A folder that can be loaded. `config` is its config.json as it stands."""

    path: Path
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]
    eos_ids: frozenset[int]
    chat_template: str | None
    bos: str | None
    eos: str | None

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def nbytes(self) -> int:
        """Size of the weight files in bytes."""
        return sum(path.stat().st_size for path in self.weight_files)


def read_model_folder(path: Path) -> ModelFolder:
    """Read the small files of a folder.

    Raises:
        ModelFolderError: it cannot be served, in one sentence with a remedy.
    """
    config = _read_config(path)
    tokenizer_config = _read_json(path / "tokenizer_config.json", optional=True)
    generation = _read_json(path / "generation_config.json", optional=True)
    return ModelFolder(
        path=path,
        config=config,
        weight_files=_weight_files(path),
        eos_ids=_token_ids(generation.get("eos_token_id")) | _token_ids(config.get("eos_token_id")),
        chat_template=_chat_template(path, tokenizer_config),
        bos=_token_text(tokenizer_config.get("bos_token")),
        eos=_token_text(tokenizer_config.get("eos_token")),
    )


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The folder's tokenizer: tokenizer.json if there is one, else tokenizer.model.

    Raises:
        ModelFolderError: there is none, or it has fewer pieces than the model has rows.
    """
    fast, spm = folder.path / "tokenizer.json", folder.path / "tokenizer.model"
    tokenizer: Tokenizer
    if fast.is_file():
        tokenizer = _load_fast(fast, folder)
    elif spm.is_file():
        tokenizer = SpmTokenizer(spm)
    else:
        raise ModelFolderError(
            f"{folder.path} has neither tokenizer.json nor tokenizer.model",
            "Copy the tokenizer that belongs to the model into the folder.",
        )
    _check_pieces(tokenizer, folder)
    return tokenizer


def _load_fast(path: Path, folder: ModelFolder) -> FastTokenizer:
    try:
        return FastTokenizer(path, folder.bos, folder.eos)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise ModelFolderError(
            f"{path} cannot be read: {error}", "Copy the file again from its source."
        ) from error


# A vocabulary is padded to a multiple of at most this, so fewer missing pieces are legal.
MOST_PADDING = 512


def _check_pieces(tokenizer: Tokenizer, folder: ModelFolder) -> None:
    rows = int(folder.config["vocab_size"])
    if tokenizer.pieces > rows:
        raise ModelFolderError(
            f"The tokenizer has {tokenizer.pieces} pieces but the model only {rows} rows",
            "This is another model's tokenizer: copy the one that belongs to this model.",
        )
    if rows - tokenizer.pieces >= MOST_PADDING:
        raise ModelFolderError(
            f"The model has {rows} rows but the tokenizer only {tokenizer.pieces} pieces, so it "
            "would answer with ids that have no text (piece id is out of range)",
            "This is another model's tokenizer: copy the one that belongs to this model.",
        )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise ModelFolderError(f"There is no model folder {path}", _did_you_mean(path))
    config = _read_json(path / "config.json")
    architectures = config.get("architectures") or []
    if not ARCHITECTURES.intersection(architectures) and config.get("model_type") != "llama":
        what = ", ".join(architectures) or config.get("model_type") or "of an unknown family"
        raise ModelFolderError(
            f"The model in {path} is {what}, and only the LLaMA family is served",
            "Choose a model whose config.json says LlamaForCausalLM.",
        )
    if not all(isinstance(config.get(size), int) for size in ("vocab_size", "hidden_size")):
        raise ModelFolderError(
            f"{path / 'config.json'} lacks vocab_size or hidden_size",
            "Copy config.json again from the model's source.",
        )
    return config


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFolderError(
            f"{path.parent} has no {path.name}",
            "It must hold a model in the Hugging Face layout.",
        ) from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error}", "Copy the file again from its source."
        ) from error
    if not isinstance(data, dict):
        raise ModelFolderError(f"{path} holds no JSON object", "Copy it again from its source.")
    return data


def _weight_files(path: Path) -> tuple[Path, ...]:
    present = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if present is None:
        raise ModelFolderError(
            f"{path} holds no weights ({' or '.join(WEIGHTS[::2])})",
            "Download the model's weight files into the folder.",
        )
    if not present.name.endswith(".index.json"):
        return (present,)
    shards = _shards(present)
    missing = [name for name in shards if not (path / name).is_file()]
    if missing:
        raise ModelFolderError(
            f"{path} lacks {len(missing)} of {len(shards)} weight files, {missing[0]} first",
            "Download the missing files.",
        )
    return tuple(path / name for name in shards)


def _shards(index: Path) -> list[str]:
    weight_map = _read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise ModelFolderError(
            f"{index.name} names no weight files, or some outside of its folder",
            "Copy the index again from the model's source.",
        )
    return sorted(names)


def _chat_template(path: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The model's own template, where current and older folders keep it."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return _read_text(file)
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        named = {entry.get("name"): entry.get("template") for entry in entries}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelFolderError(
            f"{path} cannot be read: {error}", "Copy the file again from its source."
        ) from error


def _token_text(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _token_ids(value: Any) -> frozenset[int]:
    ids = value if isinstance(value, list) else [value]
    return frozenset(i for i in ids if isinstance(i, int) and i >= 0)


def _did_you_mean(path: Path) -> str:
    parent = path.parent
    names = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"Did you mean {parent / close[0]}?"
    return "Check --base_model: a folder, a name in models/, or a hub id like org/name."
