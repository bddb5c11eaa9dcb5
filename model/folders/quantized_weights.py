"""Recognises folders whose weights are stored quantized: this program quantizes while it loads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from model.bounded_files import parse_json, read_text
from model.diagnostics import folder_error
from model.errors import ModelFolderError

CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")  # the last is MLX's
# Files that tell it in folders whose config.json does not: AutoGPTQ's, AutoAWQ's, ModelOpt's.
SIDE_FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
# Ends of the names of tensors beside packed weights.
PACKED = (
    ".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".absmax",
    ".quant_map", ".SCB", ".W_q", ".codebooks", "_blocks", ".scales", "._data", "._scale",
)  # fmt: skip
MAX_KIND = 50  # characters


def check_not_quantized(
    folder: Path, config: Mapping[str, Any], tensor_names: Iterable[str] = ()
) -> None:
    """Checks that neither `config`, its config.json, nor a file or tensor says that the weights in
    `folder` are quantized.

    Raises:
        ModelFolderError: they are; the remedy is one for the kind.
    """
    kind = _kind_in(config) or _kind_beside(folder)
    if kind is None and any(name.endswith(PACKED) for name in tensor_names):
        kind = "unknown"
    if kind is not None:
        raise _error(folder, kind)


def quantization_setting(config: Mapping[str, Any]) -> str | None:
    """Returns the key of the setting in `config` that says that the weights are quantized."""
    return next((key for key in CONFIG_KEYS if config.get(key)), None)


def _kind_in(config: Mapping[str, Any]) -> str | None:
    key = quantization_setting(config)
    if key is None:
        return None
    content = config[key]
    if not isinstance(content, Mapping):
        return "unknown"
    method = content.get("quant_method") or content.get("format")
    if isinstance(method, str):
        return method[:MAX_KIND].lower()
    if content.get("load_in_4bit") or content.get("load_in_8bit"):
        return "bitsandbytes"
    if "group_size" in content and "bits" in content:
        return "mlx"
    return "compressed-tensors" if key == "compression_config" else "unknown"


def _kind_beside(folder: Path) -> str | None:
    for name, kind in SIDE_FILES.items():
        if (folder / name).is_file():
            try:
                content = parse_json(read_text(folder / name))
            except (OSError, ValueError):
                return kind
            method = content.get("quant_method") if isinstance(content, dict) else None
            return method[:MAX_KIND].lower() if isinstance(method, str) else kind
    return None


def _error(folder: Path, kind: str) -> ModelFolderError:
    if kind == "bitsandbytes":
        return folder_error("quantized_bitsandbytes", folder=folder, kind=kind)
    if kind == "mlx":
        return folder_error("quantized_mlx", folder=folder, kind="MLX")
    return folder_error("quantized", folder=folder, kind=kind)
