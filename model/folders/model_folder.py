"""A model folder on disk: its configuration, tokenizer, chat template and weight files.

Reading a folder checks the model's family, the files, and the size of the tokenizer. Otherwise they
would fail later with a stack trace or, worse, as replies of random text.
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
from model.folders.incomplete_folders import missing_weights_error
from model.folders.lazy_tensor import LazyTensor
from model.folders.model_config import MAX_SIZES, check_config, check_format
from model.folders.pytorch_file import is_old_pickle
from model.folders.quantized_weights import check_not_quantized, quantization_setting
from model.folders.weights import list_tensors
from model.suggestions import closest_folder
from model.tensor_names import EMBEDDING, HEAD
from model.text.special_tokens import SpecialTokens
from model.text.tokenizer import Tokenizer
from model.text.tokenizer_files import (
    CHAT_TEMPLATE,
    chat_template_in,
    check_vocab_size,
    read_json,
    read_tokenizer,
)

# In the order in which transformers prefers them.
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
MAX_END_TOKENS, MAX_STOPS, MAX_STOP = 1000, 64, 1000  # of a stop string, in characters
# Ends of tensor names in old checkpoints that are no weights.
IGNORED = ("rotary_emb.inv_freq", "attention.bias", "masked_bias")
FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class ModelFolder:
    """A model folder. Reads each of its files once, when it is first needed.

    Properties raise ModelFolderError if a file is missing or torn, or its content is invalid.

    Args:
        path: the folder.
        other_config: used instead of its config.json.
        needs_weights: False if another program has the weights; `weight_files` may then be empty.
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
        """The content of config.json, checked: a model of the LLaMA family."""
        if self.other_config is None:
            check_format(self.path)
        content = self.other_config or self._json("config.json", optional=False)
        config = check_config(self.path, content)
        if self.needs_weights:
            self._check_not_quantized(config)
        return config

    @cached_property
    def tied_head(self) -> bool:
        """Whether the head is the embedding. As in transformers, it is not where the weights have
        another one, whatever config.json says."""
        if not self.config.get("tie_word_embeddings"):
            return False
        tensors = {tensor.name: tensor for _, tensor in self.tensors()}
        if HEAD not in tensors or EMBEDDING not in tensors:
            return True
        return tensors[HEAD].read().equal(tensors[EMBEDDING].read())

    @cached_property
    def eos_ids(self) -> frozenset[int]:
        generation = self._json("generation_config.json")
        return _token_ids(generation.get("eos_token_id")) | _token_ids(
            self.config.get("eos_token_id")
        )

    @cached_property
    def stop(self) -> tuple[str, ...]:
        """Stop strings: a reply ends at them, as at one of `eos_ids`."""
        return _strings(self._json("generation_config.json").get("stop_strings"))

    @cached_property
    def chat_template(self) -> str | None:
        """The model's chat template; newer and older folders have it in different files."""
        file = self.path / CHAT_TEMPLATE
        if file.is_file():
            return _read_text(file)
        return chat_template_in(self._json("tokenizer_config.json"))

    @cached_property
    def tokenizer(self) -> tuple[Tokenizer, SpecialTokens]:
        """The tokenizer, not checked against the model: see `load_tokenizer`."""
        return read_tokenizer(self.path, self._json)

    @cached_property
    def weight_files(self) -> tuple[Path, ...]:
        """The weight files, in the order of their names."""
        try:
            return self._find_weight_files()
        except ModelFolderError:
            if self.needs_weights:
                raise
            return ()

    @cached_property
    def weight_map(self) -> Mapping[str, str]:
        """File name by tensor name, from the index; empty if there is no index."""
        index = self.weight_index
        return weight_map(index.name, self._json(index.name)) if index else {}

    @property
    def weight_index(self) -> Path | None:
        """The index file of the weights; None if there is a single weight file."""
        file = self._find_weights()
        return file if file and file.name.endswith(".index.json") else None

    @property
    def nbytes(self) -> int:
        """Size of the weight files in bytes."""
        return sum(path.stat().st_size for path in self.weight_files)

    def check_small_files(self) -> None:
        """Reads all files but the tokenizer and the weights, so that errors show early.

        Raises:
            ModelFolderError: a file is missing or torn, or the model is of another family.
        """
        _ = self.config, self._json("tokenizer_config.json"), self._json("generation_config.json")
        _ = self.weight_files, self.chat_template

    def tensors(self) -> Iterator[tuple[Path, LazyTensor]]:
        """Yields each tensor with its file, not read yet; lists a file again if it has changed."""
        for file in self.weight_files:
            for tensor in self._list_file(file):
                yield file, tensor

    def _check_not_quantized(self, config: Mapping[str, Any]) -> None:
        """Raises ModelFolderError if the configuration says that the weights are quantized."""
        key = quantization_setting(config)
        if key is not None and self._has_plain_weights():
            raise folder_error("quantized_in_name_only", folder=self.path, key=key)
        check_not_quantized(self.path, config)

    def _has_plain_weights(self) -> bool:
        """Whether all tensors are weights in 16 or 32 bits; False if that takes reading pickles."""
        try:
            files = self._find_weight_files()
            if any(file.suffix != ".safetensors" for file in files):
                return False
            tensors = [tensor for file in files for tensor in self._list_file(file)]
        except ModelFolderError:
            return False
        return all(
            tensor.dtype in FLOATS and tensor.name.endswith((".weight", ".bias", *IGNORED))
            for tensor in tensors
        )

    def _list_file(self, file: Path) -> list[LazyTensor]:
        try:
            status = file.stat()
        except OSError as error:
            raise folder_error("file_unreadable", file=file, reason=error.strerror) from error
        key = (file, status.st_size, status.st_mtime_ns)
        tensors = self._shards.get(key)
        if tensors is None:
            tensors = list_tensors(file)
            if not is_old_pickle(file):  # its tensors are in memory: do not keep them
                self._shards[key] = tensors
        return tensors

    def _json(self, name: str, optional: bool = True) -> dict[str, Any]:
        if name not in self._parsed:
            self._parsed[name] = read_json(self.path / name, optional)
        return self._parsed[name]

    def _find_weights(self) -> Path | None:
        return next((self.path / name for name in WEIGHTS if (self.path / name).is_file()), None)

    def _find_weight_files(self) -> tuple[Path, ...]:
        file = self._find_weights()
        if file is None:
            raise missing_weights_error(self.path, " or ".join(WEIGHTS[::2]))
        if not self.weight_index:
            return (file,)
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
        config: used instead of its config.json.
        weights: False if another program has the weights, and only the tokenizer is needed.

    Raises:
        ModelFolderError: it cannot be served.
    """
    if not path.is_dir():
        raise _no_folder_error(path)
    folder = ModelFolder(path, config, weights)
    folder.check_small_files()
    return folder


def load_tokenizer(folder: ModelFolder) -> Tokenizer:
    """Returns the folder's tokenizer, checked against the model.

    Raises:
        ModelFolderError: there is none, or it belongs to another model.
    """
    tokenizer, _ = folder.tokenizer
    check_vocab_size(tokenizer, folder.config)
    return tokenizer


def weight_map(name: str, index: Mapping[str, Any]) -> Mapping[str, str]:
    """Returns the file name by tensor name.

    Args:
        name: of the index file, for messages.
        index: its content.

    Raises:
        ModelFolderError: the index is invalid, or names files outside its folder.
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
        raise folder_error("file_unreadable", file=path, reason=error) from error


def _token_ids(value: Any) -> frozenset[int]:
    ids = value[:MAX_END_TOKENS] if isinstance(value, list) else [value]
    return frozenset(i for i in ids if type(i) is int and 0 <= i < MAX_SIZES["vocab_size"])


def _strings(value: Any) -> tuple[str, ...]:
    """Returns one string or a list of strings as a tuple; generation_config.json has either."""
    texts = value[:MAX_STOPS] if isinstance(value, list) else [value]
    return tuple(text for text in texts if isinstance(text, str) and 0 < len(text) <= MAX_STOP)


def _no_folder_error(path: Path) -> ModelFolderError:
    """Returns the error, with the folder that the user may have meant."""
    close = closest_folder(path, [path.parent])
    if close:
        return folder_error("no_folder_but", folder=path, close=close)
    return folder_error("no_folder", folder=path)
