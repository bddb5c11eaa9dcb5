"""Loads the base for training through transformers; on CUDA, bitsandbytes quantizes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import SettingsError
from model.system_resources import available_cores


@dataclass(frozen=True)
class ComputeConfig:
    """Device and number formats of a training run.

    `dtype` is torch's name of the base's type; the adapter itself is always trained in float32.
    """

    device: str
    dtype: str
    quantization: str
    gradient_checkpointing: bool

    @property
    def mixed_precision(self) -> dict[str, bool]:
        """Trainer's flags for mixed precision, which CUDA needs for quantized layers."""
        on_cuda = self.device == "cuda"
        return {
            "bf16": on_cuda and self.dtype == "bfloat16",
            "fp16": on_cuda and self.dtype == "float16",
        }


def resolve_compute_config(
    device: str, quantization: str, dtype: str, checkpointing: bool | None, threads: int | None
) -> ComputeConfig:
    """Replaces "auto" and None by what suits this machine; on the CPU it sets torch's threads.

    Raises:
        SettingsError: there is no such device, or it does not support the quantization.
    """
    import torch

    from model.weight_loader import resolve_device

    device = resolve_device(device, "none")
    if device == "cpu":
        if quantization not in ("auto", "none"):
            raise SettingsError("training_quantization_needs_cuda", quantization=quantization)
        torch.set_num_threads(threads or available_cores())
        return ComputeConfig("cpu", _cpu_dtype(dtype), "none", bool(checkpointing))
    quantization = "8bit" if quantization == "auto" else quantization
    # LLM.int8 computes in float16, and warns for each layer when it gets another type.
    half = "bfloat16" if quantization != "8bit" and torch.cuda.is_bf16_supported() else "float16"
    cuda_dtype = {"auto": half, "bf16": "bfloat16", "fp32": "float32"}[dtype]
    return ComputeConfig("cuda", cuda_dtype, quantization, checkpointing is not False)


def _cpu_dtype(dtype: str) -> str:
    """bfloat16 if the processor multiplies it itself: on others it is slower than float32."""
    import torch

    if dtype != "auto":
        return {"bf16": "bfloat16", "fp32": "float32"}[dtype]
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if has_bf16 else "float32"


def load_base(path: Path, compute: ComputeConfig) -> Any:
    """The base in `path` as a transformers model, its weights frozen."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=getattr(torch, compute.dtype),
        quantization_config=_quantization_config(compute),
        device_map={"": 0} if compute.device == "cuda" else None,
    )
    if compute.quantization != "none":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=compute.gradient_checkpointing
        )
    elif compute.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def _quantization_config(compute: ComputeConfig) -> Any:
    if compute.quantization == "none":
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if compute.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, compute.dtype),
    )  # fmt: skip


def silence_libraries() -> None:
    """Turns off the libraries' progress bars and warnings; this program prints its own."""
    import logging
    import warnings

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # before it is imported
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
