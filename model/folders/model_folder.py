"""What a model folder holds, and where to find one by name.

Reading a folder checks what would otherwise fail later with a stack trace or, worse, as garbage
text: the family, the files, the tokenizer's size against the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.bounded_files import read_text
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.suggestions import closest_folder
from model.text.tokenizer import Tokenizer
from model.text.tokenizer_files import check_vocab_size, read_json, read_tokenizer
from model.translations import LocalizedText

ARCHITECTURES = {"LlamaForCausalLM", "LLaMAForCausalLM"}  # the second is what early files say
# In the order in which transformers prefers them.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# Sizes beyond these are no model's: what is made of them would fill the memory before it is known
# whether the weights are there.
MAX_SIZES = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "max_position_embeddings": 100_000_000,
}
MAX_END_TOKENS, MAX_STOPS, MAX_STOP = 1000, 64, 1000  # the last in characters
IGNORED = ("rotary_emb.inv_freq", "attention.bias", "masked_bias")  # of old checkpoints: no weights


@dataclass(frozen=True)
class ModelFolder:
    """A folder that can be loaded. `config` is its config.json as it stands."""

    path: Path
    config: Mapping[str, Any]
    weight_files: tuple[Path, ...]
    eos_ids: frozenset[int]
    chat_template: str | None
    stop: tuple[str, ...] = ()  # where a reply ends besides these

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def nbytes(self) -> int:
        """Size of the weight files in bytes."""
        return sum(path.stat().st_size for path in self.weight_files)


def read_model_folder(
    path: Path, config: Mapping[str, Any] | None = None, weights: bool = True
) -> ModelFolder:
    """Read the small files of a folder; `config`, if given, stands in for its config.json.

    Without `weights` they need not be there: somebody else has them, and the tokenizer is wanted.

    Raises:
        ModelFolderError: it cannot be served, in one sentence with a remedy.
    """
    if not path.is_dir():
        raise _no_folder(path)
    config = check_config(path, read_config(path) if config is None else config)
    read_json(path / "tokenizer_config.json", optional=True)  # or else it is torn
    generation = read_json(path / "generation_config.json", optional=True)
    return ModelFolder(
        path=path,
        config=config,
        weight_files=weight_files(path) if weights else _weights_that_are_there(path),
        eos_ids=_token_ids(generation.get("eos_token_id")) | _token_ids(config.get("eos_token_id")),
        chat_template=chat_template(path),
        stop=_strings(generation.get("stop_strings")),
    )


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The folder's tokenizer, which fits the model.

    Raises:
        ModelFolderError: there is none, or it is another model's.
    """
    tokenizer, _ = read_tokenizer(folder.path)
    check_vocab_size(tokenizer, folder.config)
    return tokenizer


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of the folder `path`.

    Raises:
        ModelFolderError: there is none, and what the folder holds instead; or it is torn.
    """
    file = path / "config.json"
    if not file.is_file():
        other = _in_another_format(path)
        if other is not None:
            raise folder_error("needs_conversion", folder=path, source=other)
        if any(path.glob("consolidated.*.pth")):
            raise folder_error("metas_format", folder=path)
    return read_json(file)


def _in_another_format(path: Path) -> Path | None:
    """What to convert, where a folder holds a GGUF file, or a checkpoint beside a SentencePiece
    model, as Linly publishes them."""
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs:
        return ggufs[0] if len(ggufs) == 1 else path
    return path if any(path.glob("*.bin")) and any(path.glob("*.model")) else None


def check_config(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """`config`, which belongs to the folder `path`, if it is of the LLaMA family.

    Raises:
        ModelFolderError: it is not, or lacks what everything else needs.
    """
    told = config.get("architectures")
    architectures = [str(name) for name in told] if isinstance(told, list) else []
    if not ARCHITECTURES.intersection(architectures) and config.get("model_type") != "llama":
        what = (
            ", ".join(architectures) or config.get("model_type") or LocalizedText("unknown_family")
        )
        raise folder_error("not_llama", folder=path, what=what)
    if not all(_is_size(config.get(size)) for size in ("vocab_size", "hidden_size")):
        raise folder_error("config_incomplete", file=path / "config.json")
    for name, most in MAX_SIZES.items():
        if config.get(name) is not None and not (_is_size(config[name]) and config[name] <= most):
            said = f"{name} is {config[name]!r}"
            raise folder_error("config_unsound", file=path / "config.json", said=said)
    return config


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights of the folder `path`, in the order of their names.

    Raises:
        ModelFolderError: there are none, or some of them are missing.
    """
    present = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if present is None:
        raise folder_error("weights_missing", folder=path, names=" or ".join(WEIGHTS[::2]))
    if not present.name.endswith(".index.json"):
        return (present,)
    shards = sorted(set(weight_map(present).values()))
    missing = [name for name in shards if not (path / name).is_file()]
    if missing:
        raise folder_error(
            "shards_missing", folder=path, count=len(missing), of=len(shards), name=missing[0]
        )
    return tuple(path / name for name in shards)


def _weights_that_are_there(path: Path) -> tuple[Path, ...]:
    try:
        return weight_files(path)
    except ModelFolderError:
        return ()


def weight_map(index: Path) -> dict[str, str]:
    """Which file holds which tensor, as the file `index` says.

    Raises:
        ModelFolderError: it is torn, or names files outside of its folder.
    """
    held = read_json(index).get("weight_map")
    names = set(held.values()) if isinstance(held, dict) else set()
    if not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise folder_error("index_unsound", name=index.name)
    return dict(held)  # type: ignore[arg-type]


def chat_template(path: Path) -> str | None:
    """The model's own template, where current and older folders keep it.

    Raises:
        ModelFolderError: the file that holds it cannot be read.
    """
    file = path / "chat_template.jinja"
    if file.is_file():
        return _read_text(file)
    tokenizer_config = read_json(path / "tokenizer_config.json", optional=True)
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        named = {entry.get("name"): entry.get("template") for entry in entries}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read_text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise folder_error("file_unreadable", file=path, said=error) from error


def _token_ids(value: Any) -> frozenset[int]:
    ids = value[:MAX_END_TOKENS] if isinstance(value, list) else [value]
    return frozenset(i for i in ids if type(i) is int and 0 <= i < MAX_SIZES["vocab_size"])


def _strings(value: Any) -> tuple[str, ...]:
    """One text or a list of them, as transformers' generation_config.json allows."""
    texts = value[:MAX_STOPS] if isinstance(value, list) else [value]
    return tuple(text for text in texts if isinstance(text, str) and 0 < len(text) <= MAX_STOP)


def _no_folder(path: Path) -> ModelFolderError:
    """With the folder that the user may have meant."""
    close = closest_folder(path, [path.parent])
    if close:
        return folder_error("no_folder_but", folder=path, close=close)
    return folder_error("no_folder", folder=path)
