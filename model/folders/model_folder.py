"""A model folder on disk: its configuration, tokenizer, chat template and weight files.

Reading a folder checks what would otherwise fail later with a stack trace or, worse, as garbage
text: the family, the files, the tokenizer's size against the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from model.bounded_files import read_text
from model.diagnostics import folder_error
from model.errors import ModelFolderError
from model.folders.weights import LazyTensor, is_old_pickle, list_tensors
from model.suggestions import closest_folder
from model.text.special_tokens import SpecialTokens
from model.text.tokenizer import Tokenizer
from model.text.tokenizer_files import check_pieces, read_json, read_tokenizer
from model.translations import LocalizedText

ARCHITECTURES = {"LlamaForCausalLM", "LLaMAForCausalLM"}  # the second is in early files
# In the order in which transformers prefers them.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# No model has larger sizes; tables of larger ones would fill the memory before the weights are
# checked.
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
    """A model folder. Reads each of its files once, when it is first needed.

    Properties raise ModelFolderError where a file is missing or torn, or its content not sound.

    Args:
        path: the folder.
        other_config: stands in for its config.json.
        needs_weights: False where another program has the weights, and `weight_files` may be empty.
    """

    path: Path
    other_config: Mapping[str, Any] | None = None
    needs_weights: bool = True
    _parsed: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False, compare=False)
    _shards: dict[tuple[Path, int, int], list[LazyTensor]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The config.json, unchanged, of a model of the LLaMA family."""
        if self.other_config is not None:
            return check_config(self.path, self.other_config)
        check_format(self.path)
        return check_config(self.path, self._json("config.json", optional=False))

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        generation = self._json("generation_config.json")
        return _token_ids(generation.get("eos_token_id")) | _token_ids(
            self.config.get("eos_token_id")
        )

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """Texts at which a reply ends, besides `eos_ids`."""
        return _strings(self._json("generation_config.json").get("stop_strings"))

    @cached_property
    def chat_template(self) -> str | None:
        """The model's own template, where current and older folders keep it."""
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return _read_text(file)
        template = self._json("tokenizer_config.json").get("chat_template")
        if isinstance(template, list):  # several by name
            entries = [entry for entry in template if isinstance(entry, dict)]
            named = {entry.get("name"): entry.get("template") for entry in entries}
            template = named.get("default")
        return template if isinstance(template, str) else None

    @cached_property
    def tokenizer(self) -> tuple[Tokenizer, SpecialTokens]:
        """The tokenizer as it stands, which may be another model's: see `load_tokenizer`."""
        return read_tokenizer(self.path, self._json)

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that hold the weights, in the order of their names."""
        try:
            return self._find_weight_files()
        except ModelFolderError:
            if self.needs_weights:
                raise
            return ()

    @cached_property
    def weight_map(self) -> Mapping[str, str]:
        """File name by tensor name, as the index says; empty where there is no index."""
        index = self.weight_index
        return weight_map(index.name, self._json(index.name)) if index else {}

    @property
    def weight_index(self) -> Path | None:
        """The index of the weights, where they are in several files."""
        present = self._weights()
        return present if present and present.name.endswith(".index.json") else None

    @property
    def nbytes(self) -> int:
        """Size of the weight files in bytes."""
        return sum(path.stat().st_size for path in self.weight_files)

    def check_small_files(self) -> None:
        """Reads all but the tokenizer and the tensors, so that none of it fails later.

        Raises:
            ModelFolderError: a file is missing or torn, or the family is another.
        """
        _ = self.config, self._json("tokenizer_config.json"), self._json("generation_config.json")
        _ = self.weight_files, self.chat_template

    def tensors(self) -> Iterator[tuple[Path, LazyTensor]]:
        """Every tensor with its file, none read yet; a file that changed is listed again."""
        for file in self.weight_files:
            for tensor in self._list(file):
                yield file, tensor

    def _list(self, file: Path) -> list[LazyTensor]:
        try:
            status = file.stat()
        except OSError as error:
            raise folder_error("file_unreadable", file=file, said=error.strerror) from error
        key = (file, status.st_size, status.st_mtime_ns)
        tensors = self._shards.get(key)
        if tensors is None:
            tensors = list_tensors(file)
            if not is_old_pickle(file):  # its tensors are in memory already
                self._shards[key] = tensors
        return tensors

    def _json(self, name: str, optional: bool = True) -> dict[str, Any]:
        if name not in self._parsed:
            self._parsed[name] = read_json(self.path / name, optional)
        return self._parsed[name]

    def _weights(self) -> Path | None:
        return next((self.path / name for name in WEIGHTS if (self.path / name).is_file()), None)

    def _find_weight_files(self) -> tuple[Path, ...]:
        present = self._weights()
        if present is None:
            raise folder_error("weights_missing", folder=self.path, names=" or ".join(WEIGHTS[::2]))
        if not self.weight_index:
            return (present,)
        shards = sorted(set(self.weight_map.values()))
        missing = [name for name in shards if not (self.path / name).is_file()]
        if missing:
            raise folder_error(
                "shards_missing",
                folder=self.path,
                count=len(missing),
                of=len(shards),
                name=missing[0],
            )
        return tuple(self.path / name for name in shards)


def read_model_folder(
    path: Path, config: Mapping[str, Any] | None = None, weights: bool = True
) -> ModelFolder:
    """Returns the folder `path` with its small files read.

    Args:
        path: the folder.
        config: stands in for its config.json.
        weights: False where another program has the weights, and only the tokenizer is needed.

    Raises:
        ModelFolderError: it cannot be served, in one sentence with a remedy.
    """
    if not path.is_dir():
        raise _no_folder(path)
    folder = ModelFolder(path, config, weights)
    folder.check_small_files()
    return folder


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """The folder's tokenizer, which fits the model.

    Raises:
        ModelFolderError: there is none, or it is another model's.
    """
    tokenizer, _ = folder.tokenizer
    check_pieces(tokenizer, folder.config)
    return tokenizer


def check_format(path: Path) -> None:
    """Refuses a folder that holds a model in another format.

    Raises:
        ModelFolderError: it does.
    """
    if (path / "config.json").is_file():
        return
    other = _in_another_format(path)
    if other is not None:
        raise folder_error("needs_conversion", folder=path, source=other)
    if any(path.glob("consolidated.*.pth")):
        raise folder_error("metas_format", folder=path)


def _in_another_format(path: Path) -> Path | None:
    """Returns what to convert: a GGUF file, or a folder with a checkpoint beside a SentencePiece
    model, as Linly publishes them."""
    ggufs = sorted(path.glob("*.gguf"))
    if ggufs:
        return ggufs[0] if len(ggufs) == 1 else path
    return path if any(path.glob("*.bin")) and any(path.glob("*.model")) else None


def check_config(path: Path, config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns `config`, the one of the folder `path`, which is of the LLaMA family.

    Raises:
        ModelFolderError: it is of another family, or lacks a required field.
    """
    names = config.get("architectures")
    architectures = [str(name) for name in names] if isinstance(names, list) else []
    if not ARCHITECTURES.intersection(architectures) and config.get("model_type") != "llama":
        what = (
            ", ".join(architectures) or config.get("model_type") or LocalizedText("unknown_family")
        )
        raise folder_error("not_llama", folder=path, what=what)
    if not all(_is_size(config.get(size)) for size in ("vocab_size", "hidden_size")):
        raise folder_error("config_incomplete", file=path / "config.json")
    for name, max_size in MAX_SIZES.items():
        value = config.get(name)
        if value is not None and not (_is_size(value) and value <= max_size):
            problem = f"{name} is {value!r}"
            raise folder_error("config_unsound", file=path / "config.json", said=problem)
    return config


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def weight_map(name: str, index: Mapping[str, Any]) -> Mapping[str, str]:
    """File name by tensor name.

    Args:
        name: of the index file, for messages.
        index: its content.

    Raises:
        ModelFolderError: it is not sound, or names files outside of its folder.
    """
    files = index.get("weight_map")
    names = set(files.values()) if isinstance(files, dict) else set()
    if not names or any(not isinstance(n, str) or Path(n).name != n for n in names):
        raise folder_error("index_unsound", name=name)
    return dict(files)  # type: ignore[arg-type]


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
    """Returns the error, with the folder that the user may have meant."""
    close = closest_folder(path, [path.parent])
    if close:
        return folder_error("no_folder_but", folder=path, close=close)
    return folder_error("no_folder", folder=path)
