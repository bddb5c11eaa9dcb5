"""Describes a base model: what an adapter has to fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from model.folders.fingerprint import fingerprint
from model.folders.model_folder import ModelFolder
from model.folders.tensor_schema import Shape, expected_tensors
from model.tensor_names import EMBEDDING, INPUT_NORM
from model.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class BaseInfo:
    """A base's name, the shapes of its tensors by their names, and a sample of its weights.

    A tied head is not among the tensors, biases are if the base has them.
    `tokenizer` is None where it is not known.
    """

    name: str
    tensors: Mapping[str, Shape]
    fingerprint: Sequence[float] = ()
    tokenizer: Tokenizer | None = None

    @property
    def rows(self) -> int:
        """Rows of the embedding: the size of the vocabulary, with its padding."""
        return self.tensors[EMBEDDING][0]

    @property
    def num_layers(self) -> int:
        return sum(name.endswith(f"{INPUT_NORM}.weight") for name in self.tensors)


def read_base_info(folder: ModelFolder, name: str, tokenizer: Tokenizer | None) -> BaseInfo:
    """Reads the base model in `folder`, which is called `name`.

    Raises:
        ModelFolderError: its configuration or a file is broken.
    """
    stored = {tensor.name: tensor.shape for _, tensor in folder.tensors()}
    tensors = expected_tensors(folder.config)
    tensors |= {name: shape for name, shape in stored.items() if name.endswith(".bias")}
    return BaseInfo(name, tensors, fingerprint(folder), tokenizer)
