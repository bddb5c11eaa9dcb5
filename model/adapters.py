"""The registry of adapters: names to what lies in `--adapters_dir`, with a verdict on each.

A client only ever sends a name; paths never come from outside. A broken adapter is listed with
its reason and never loaded, and the others serve.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import math
import re
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.types import AdapterError, UnknownModelError

if TYPE_CHECKING:
    import torch

    from model.layers.llama import LlamaShape
    from model.layers.lora import Lora, LoraPair

CONFIG = "adapter_config.json"
CARD = "linly_adapter.json"  # ours: {"template": …, "description": …}
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHT_NAME = re.compile(
    r"^(?:base_model\.model\.)?model\.layers\.(\d+)\.(?:self_attn|mlp)\.(\w+)"
    r"\.lora_(A|B)(?:\.default)?\.weight$"
)
# Settings of peft's LoraConfig that change what the adapter computes, and are not served yet.
REFUSED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save (whole layers of its own)",
    "trainable_token_indices": "trainable tokens",
    "lora_bias": "a bias in the update",
    "fan_in_fan_out": "transposed weights",
    "alora_invocation_tokens": "activation by tokens (aLoRA)",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "arrow_config": "Arrow routing",
    "layer_replication": "replicated layers",
    "target_parameters": "updates of bare parameters",
}


# Kinds of `init_lora_weights` that take the first weights out of the base, on loading too.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True)
class Adapter:
    """An adapter folder as it was found. `reason` says why it cannot be used, if it cannot."""

    name: str
    path: Path
    description: str = ""
    template: str | None = None
    digest: str = ""
    reason: str | None = None

    @property
    def ready(self) -> bool:
        return self.reason is None


class AdapterRegistry:
    """What lies in `folder`, checked against the base's `shape` and the known `templates`."""

    def __init__(self, folder: Path, shape: LlamaShape | None, templates: Collection[str]) -> None:
        self._folder = folder
        self._shape = shape
        self._templates = templates
        self._found: dict[str, Adapter] = {}
        self._stamps: dict[str, tuple[float, ...]] = {}
        self._lock = threading.Lock()

    def scan(self) -> list[Adapter]:
        """Look at the folder again; only what has changed is read. Sorted by name."""
        with self._lock:
            paths = self._folders()
            stamps = {path.name: _stamp(path) for path in paths}
            known = {n: a for n, a in self._found.items() if self._stamps.get(n) == stamps.get(n)}
            self._found = {p.name: known.get(p.name) or self._examine(p) for p in paths}
            self._stamps = stamps
            return list(self._found.values())

    def _folders(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if (path / CONFIG).is_file())

    def get(self, name: str) -> Adapter:
        """A healthy adapter by name, as its folder is now.

        Raises:
            UnknownModelError: there is none of that name.
            AdapterError: it is broken.
        """
        self.scan()
        adapter = self._found.get(name)
        if adapter is None:
            close = difflib.get_close_matches(name, self._found, n=1)
            remedy = f"Did you mean {close[0]!r}?" if close else "GET /v1/models lists them."
            raise UnknownModelError(f"There is no model or adapter {name!r}", remedy)
        if adapter.reason:
            raise AdapterError(f"The adapter {name!r} is broken: {adapter.reason}")
        return adapter

    def load(self, name: str, dtype: torch.dtype, device: str) -> Lora:
        """The weights of a healthy adapter.

        Raises:
            AdapterError: they cannot be read after all.
        """
        adapter = self.get(name)
        try:
            return _load(adapter.path, dtype, device)
        except AdapterError:
            raise
        except Exception as error:  # as in `_examine`
            raise AdapterError(f"The adapter {name!r} cannot be read: {_said(error)}") from error

    def _examine(self, path: Path) -> Adapter:
        try:
            card = _read_card(path)
            _read_config(path)
            _check_weights(path, self._shape)
            template = card.get("template")
            if template is not None and template not in self._templates:
                raise AdapterError(f"its template {template!r} is not in the prompts folder")
        except AdapterError as error:
            return Adapter(path.name, path, reason=error.message)
        except Exception as error:  # a torn file makes the parsers raise anything
            return Adapter(path.name, path, reason=f"it cannot be read: {_said(error)}")
        return Adapter(path.name, path, str(card.get("description", "")), template, _digest(path))


def _said(error: Exception) -> str:
    """The parser's own words, without the paths that the loader puts around them."""
    cause = error.__cause__ or error
    return (str(cause).splitlines() or [type(cause).__name__])[0]


def _stamp(path: Path) -> tuple[float, ...]:
    """Changes when any of the files that matter does, or comes, or goes."""
    stamp: list[float] = []
    for name in (CONFIG, CARD, *WEIGHTS):
        with contextlib.suppress(FileNotFoundError):
            status = (path / name).stat()
            stamp += [status.st_mtime, status.st_size]
    return tuple(stamp)


def _read_card(path: Path) -> dict[str, Any]:
    file = path / CARD
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _read_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"it is of type {kind}, and only LORA is served")
    for key, what in REFUSED.items():
        if config.get(key):
            raise AdapterError(f"it uses {what}, which is not served: merge it into the base")
    init = str(config.get("init_lora_weights")).lower()
    if init.startswith(CHANGES_BASE):
        raise AdapterError(f"it was made by {init}, over a base changed for it: merge it there")
    if config.get("bias", "none") != "none":
        raise AdapterError("it trains biases, which is not served: merge it into the base")
    if "lora_alpha" not in config:
        raise AdapterError(f"{CONFIG} names no lora_alpha")
    return config


def _weights_file(path: Path) -> Path:
    file = next((path / name for name in WEIGHTS if (path / name).is_file()), None)
    if file is None:
        raise AdapterError(f"it has no {WEIGHTS[0]}")
    return file


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from model.loading import read_tensors

    return dict(read_tensors((_weights_file(path),)))


def _pairs(tensors: Mapping[str, torch.Tensor]) -> dict[tuple[int, str], dict[str, torch.Tensor]]:
    """Weights by (layer, module), then "A" and "B"."""
    pairs: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = WEIGHT_NAME.match(name)
        if match is None:
            raise AdapterError(f"it has a weight that is not served: {name}")
        layer, module, side = match.groups()
        pairs.setdefault((int(layer), module), {})[side] = tensor
    return pairs


def _check_weights(path: Path, shape: LlamaShape | None) -> None:
    pairs = _pairs(_tensors(path))
    if not pairs:
        raise AdapterError("its weights file is empty: they were lost when it was saved")
    torn = next((key for key, sides in pairs.items() if set(sides) != {"A", "B"}), None)
    if torn:
        raise AdapterError(f"layer {torn[0]} {torn[1]} lacks one of lora_A and lora_B")
    if not any(sides["B"].any() for sides in pairs.values()):
        raise AdapterError("every lora_B is zero, so it would change nothing: train it again")
    if shape is not None:
        for (layer, module), sides in pairs.items():
            _check_shape(layer, module, sides, shape)


def _check_shape(
    layer: int, module: str, sides: Mapping[str, torch.Tensor], shape: LlamaShape
) -> None:
    inputs, outputs = module_sizes(shape).get(module, (None, None))
    if inputs is None or layer >= shape.num_layers:
        raise AdapterError(f"the base has no {module} in layer {layer}: it belongs to another base")
    if sides["A"].dim() != 2 or sides["B"].dim() != 2:
        raise AdapterError(f"layer {layer} {module} is no pair of matrices")
    rank = sides["A"].shape[0]
    if tuple(sides["A"].shape) != (rank, inputs) or tuple(sides["B"].shape) != (outputs, rank):
        raise AdapterError(
            f"layer {layer} {module} is made for {sides['A'].shape[1]} -> {sides['B'].shape[0]} "
            f"and the base has {inputs} -> {outputs}: it belongs to another base"
        )


def module_sizes(shape: LlamaShape) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear layer that an adapter may change."""
    hidden, wide = shape.hidden_size, shape.intermediate_size
    q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return {
        "q_proj": (hidden, q),
        "k_proj": (hidden, kv),
        "v_proj": (hidden, kv),
        "o_proj": (q, hidden),
        "gate_proj": (hidden, wide),
        "up_proj": (hidden, wide),
        "down_proj": (wide, hidden),
    }


def _load(path: Path, dtype: torch.dtype, device: str) -> Lora:
    from model.layers.lora import Lora, make_pair

    config = _read_config(path)

    def pair(key: tuple[int, str], sides: Mapping[str, torch.Tensor]) -> LoraPair:
        return make_pair(
            sides["A"], sides["B"], scaling(config, key, len(sides["A"])), dtype, device
        )

    return Lora({key: pair(key, sides) for key, sides in _pairs(_tensors(path)).items()})


def scaling(config: Mapping[str, Any], key: tuple[int, str], rank: int) -> float:
    """The factor on B A: alpha / rank, or alpha / sqrt(rank) with rsLoRA (Kalajdzievski 2023).

    `alpha_pattern` overrides alpha by a module's name, as in peft: the pattern must match the end
    of the dotted name.
    """
    layer, module = key
    block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    dotted = f"model.layers.{layer}.{block}.{module}"
    patterns = (config.get("alpha_pattern") or {}).items()
    matching = (alpha for p, alpha in patterns if re.match(rf"(.*\.)?({p})$", dotted))
    alpha = next(matching, config["lora_alpha"])
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _digest(path: Path) -> str:
    """sha256 over the configuration and the weights: what the adapter computes, and no more."""
    digest = hashlib.sha256((path / CONFIG).read_bytes())
    with _weights_file(path).open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
