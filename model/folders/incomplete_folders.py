"""Names what a folder has in place of a model: remains of a training, or of a download."""

from __future__ import annotations

from pathlib import Path

from model.diagnostics import folder_error
from model.errors import ModelFolderError

PARTIAL = ("*.incomplete", "*.part", "*.partial", "*.crdownload", "*.aria2", "*.download", "*.tmp")
HUB_CACHE = Path(".cache", "huggingface")  # of a download into a folder
ZERO_FOLDERS = ("global_step*",)
ZERO_FILES = ("mp_rank_*_model_states.pt", "*zero_pp_rank_*.pt")  # in one of them
SHARDS = ("model-*-of-*.safetensors", "pytorch_model-*-of-*.bin")
FSDP_SHARDS = ("*/*.distcp", "*.distcp")
FSDP_FILES = ("pytorch_model_fsdp*.bin",)
# Pickles beside a model, or of an adapter.
NOT_MODELS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "adapter_model.bin")


def missing_weights_error(folder: Path, names: str) -> ModelFolderError:
    """The error for a `folder` with a config.json and without weights, which would have `names`."""
    shard = _first(folder, SHARDS)
    if shard is not None:
        index = f"{shard.name.split('-')[0]}{shard.suffix}.index.json"
        return folder_error("weight_index_missing", folder=folder, name=index)
    return _remains(folder) or folder_error("weights_missing", folder=folder, names=names)


def missing_config_error(folder: Path) -> ModelFolderError | None:
    """The error for a `folder` without config.json; None if nothing explains why it has none."""
    remains = _remains(folder)
    if remains is not None:
        return remains
    checkpoints = sorted(
        (path for path in folder.glob("checkpoint-*") if path.is_dir()),
        key=lambda path: (len(path.name), path.name),
    )
    if checkpoints:
        return folder_error("checkpoints_inside", folder=folder, name=checkpoints[-1].name)
    return None


def training_remains(folder: Path) -> Path | None:
    """Returns a checkpoint of DeepSpeed or FSDP in `folder`, whose weights are not gathered."""
    return _first(folder, (*ZERO_FOLDERS, *ZERO_FILES, *FSDP_SHARDS, *FSDP_FILES))


def _remains(folder: Path) -> ModelFolderError | None:
    step, shard = _first(folder, ZERO_FOLDERS), _first(folder, FSDP_SHARDS)
    if step is not None and step.is_dir():
        return folder_error("weights_in_zero", folder=folder, name=step.name)
    if _first(folder, ZERO_FILES) is not None:
        return folder_error("weights_in_zero_step", folder=folder, parent=folder.parent)
    if shard is not None:
        return folder_error("weights_in_fsdp", folder=folder, name=shard.parent)
    file = _first(folder, FSDP_FILES)
    if file is not None:
        return folder_error("weights_fsdp_file", folder=folder, name=file.name)
    partial = _first(folder, PARTIAL) or _first(folder / HUB_CACHE, ("**/*.incomplete",))
    if partial is not None:
        return folder_error("download_unfinished", folder=folder, name=partial.name)
    return None


def _first(folder: Path, patterns: tuple[str, ...]) -> Path | None:
    """The first path in `folder` that matches one of `patterns`, by name."""
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)
