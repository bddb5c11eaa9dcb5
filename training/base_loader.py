"""The base as it is trained on: through transformers, quantised on CUDA by bitsandbytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.system_resources import available_cores
from model.types import SettingsError


@dataclass(frozen=True)
class ComputeConfig:
    """Where and in what numbers is computed. `dtype` is torch's name of the base's type; the
    adapter itself is always trained in float32."""

    device: str
    dtype: str
    quantization: str
    gradient_checkpointing: bool

    @property
    def mixed(self) -> dict[str, bool]:
        """Trainer's flags for mixed precision, which CUDA needs for quantised layers."""
        on_cuda = self.device == "cuda"
        return {
            "bf16": on_cuda and self.dtype == "bfloat16",
            "fp16": on_cuda and self.dtype == "float16",
        }


def find_machine(
    device: str, quantization: str, dtype: str, checkpointing: bool | None, threads: int | None
) -> ComputeConfig:
    """What "auto" means here.

    Raises:
        SettingsError: there is no such device, or it cannot do so.
    """
    import torch

    from model.weight_loader import resolve_device

    device = resolve_device(device, "none")
    if device == "cpu":
        if quantization not in ("auto", "none"):
            raise SettingsError(
                "training_quantization_needs_cuda",
                quantization=quantization,
            )
        torch.set_num_threads(threads or available_cores())
        return ComputeConfig("cpu", _cpu_dtype(dtype), "none", bool(checkpointing))
    quantization = "8bit" if quantization == "auto" else quantization
    # LLM.int8 computes in float16, and warns of every layer when it gets another type.
    half = "bfloat16" if quantization != "8bit" and torch.cuda.is_bf16_supported() else "float16"
    chosen = {"auto": half, "bf16": "bfloat16", "fp32": "float32"}[dtype]
    return ComputeConfig("cuda", chosen, quantization, checkpointing is not False)


def _cpu_dtype(dtype: str) -> str:
    """bfloat16 where the processor multiplies it itself: elsewhere it is slower than float32."""
    import torch

    if dtype != "auto":
        return {"bf16": "bfloat16", "fp32": "float32"}[dtype]
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def load_base(path: Path, machine: ComputeConfig) -> Any:
    """The base in `path` as a transformers model, its weights frozen."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, machine.dtype),
        quantization_config=_quantised(machine),
        device_map={"": 0} if machine.device == "cuda" else None,
    )
    if machine.quantization != "none":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=machine.gradient_checkpointing
        )
    elif machine.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def _quantised(machine: ComputeConfig) -> Any:
    if machine.quantization == "none":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if machine.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, machine.dtype),
    )  # fmt: skip


def silence_libraries() -> None:
    """No bars and no advice from the libraries: what is to be told, we tell."""
    import logging
    import warnings

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # before it is imported
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
