"""Cache on disk for quantised weights, in the layout in which they are served.

Each source has an entry: a folder named by a hash of its configuration and of its files' names,
sizes and times. A changed source gets a new entry, and its old one is removed. If an entry is
damaged the source is read again; it is never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from model.cleanup import at_end
from model.layers.linear import Int8Linear
from model.types import Progress

if TYPE_CHECKING:
    from model.folders.model_folder import ModelFolder
    from model.layers.llama import Llama

FORMAT = 3  # of the entries; those with another number are not used
DONE = "complete.json"  # written last: {"source": the source's folder}
MIN_FREE_BYTES = 2 << 30  # to leave free on the disk
MAX_END_SECONDS = 5.0  # that the end of the program waits for an entry
MAX_FILE_SECONDS = 60.0  # and then for the file that is being written

Parts = dict[str, Tensor]
log = logging.getLogger(__name__)


class WeightCache:
    """The entry for the 8-bit weights of `folder` under `cache`."""

    def __init__(self, cache: Path, folder: ModelFolder) -> None:
        self._source = folder.path.resolve()
        self._entry = cache / "weights" / _fingerprint(folder)
        self._stopped = threading.Event()

    def load(self, model: Llama, progress: Progress) -> bool:
        """Fills the empty `model` from the entry; returns False if there is no usable entry.

        Then the caller must fill the model.
        """
        if not (self._entry / DONE).is_file():
            return False
        try:
            files = list(model_parts(model))
            for done, (name, parts) in enumerate(files):
                _read_into(parts, self._entry / f"{name}.safetensors")
                progress((done + 1) / len(files))
        except Exception as error:  # safetensors, the disk and torch each raise their own
            log.info("The cached weights in %s cannot be used: %s", self._entry, error)
            return False
        return True

    def save_later(self, model: Llama) -> None:
        """Writes the entry in the background, if the disk has room; the weights must not change.

        When the program ends, it waits for the entry, but not long.
        """
        thread = threading.Thread(target=self.save, args=(model,), name="weights", daemon=True)

        def end() -> None:
            thread.join(MAX_END_SECONDS)
            self._stopped.set()
            thread.join(MAX_FILE_SECONDS)

        at_end(end)
        thread.start()

    def save(self, model: Llama) -> None:
        """Writes the entry, if the disk has room, and removes older entries of the source."""
        try:
            needed = sum(t.nbytes for _, parts in model_parts(model) for t in parts.values())
            self._entry.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self._entry).free < needed + MIN_FREE_BYTES:
                log.info("The disk has no space for the quantized weights in %s", self._entry)
                return
            self._write(model)
            self._remove_older()
        except Exception as error:  # as above
            log.info("The quantized weights could not be written to the cache: %s", error)

    def _write(self, model: Llama) -> None:
        from safetensors.torch import save_file

        for name, parts in model_parts(model):
            # A file for each layer: safetensors copies what it writes.
            file = self._entry / f"{name}.safetensors"
            part = file.with_suffix(f".{os.getpid()}.part")  # two programs can start at once
            save_file(parts, part)
            part.rename(file)
            if self._stopped.is_set():
                return
        (self._entry / DONE).write_text(json.dumps({"source": str(self._source)}))

    def _remove_older(self) -> None:
        for other in self._entry.parent.glob(f"*/{DONE}"):
            try:
                source = json.loads(other.read_text())["source"]
            except (OSError, ValueError, LookupError, TypeError):  # torn: of no use to any source
                source = str(self._source)
            if source == str(self._source) and other.parent != self._entry:
                shutil.rmtree(other.parent, ignore_errors=True)


def model_parts(model: Llama) -> Iterator[tuple[str, Parts]]:
    """(file name, tensors by name) of all weights: the layers, then embedding, norm and head."""
    for layer in model.layers:
        parts = {"input_norm": layer.input_norm, "post_norm": layer.post_norm}
        for name, fused in layer.fused_linears.items():
            parts.update(_linear_parts(name, fused.linear))
        yield f"layer-{layer.index:03}", parts
    ends = {"norm": model.norm, **_linear_parts("embed_tokens", model.embed_tokens)}
    if model.lm_head is not model.embed_tokens:
        ends.update(_linear_parts("lm_head", model.lm_head))
    yield "ends", ends


def _linear_parts(name: str, linear: object) -> Parts:
    if not isinstance(linear, Int8Linear):
        raise TypeError("only int8 weights are cached")
    return {
        f"{name}.packed": linear.packed,
        f"{name}.scale": linear.scale,
        f"{name}.bias": linear.padded_bias,
    }


def _read_into(parts: Parts, file: Path) -> None:
    from safetensors import safe_open

    for name, tensor in parts.items():
        with safe_open(file, framework="pt") as opened:
            stored = opened.get_tensor(name)
        if stored.shape != tensor.shape or stored.dtype != tensor.dtype:
            raise ValueError(f"{name} in {file.name} is {stored.dtype} {list(stored.shape)}")
        tensor.copy_(stored)


def _fingerprint(folder: ModelFolder) -> str:
    """A hash that changes with the source. Cheap: no weights are read."""
    facts: list[object] = [FORMAT, str(folder.path.resolve()), folder.config]
    for file in folder.weight_files:
        with contextlib.suppress(OSError):
            status = file.stat()
            facts.append([file.name, status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
