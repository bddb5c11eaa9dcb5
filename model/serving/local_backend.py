"""Builds the backend on this machine: checks the base, reads its weights, starts the engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from model.base_resolver import Report, available_templates, base_name, find_base, local_folder
from model.config.server_flags import EMBEDDED_DEFAULT
from model.config.settings import Settings
from model.doctor.check_base import collect_findings, quick_check, refuse_errors
from model.folders.base_info import base_facts
from model.folders.hub import is_hub_id
from model.folders.model_folder import ModelFolder, load_tokenizer, read_model_folder
from model.serving.adapter_registry import AdapterRegistry
from model.serving.backend import Backend
from model.system_resources import available_cores, available_memory, freeze_loaded_objects
from model.text.prompt_template import load_templates
from model.text.special_tokens import end_token_ids
from model.types import Phase

if TYPE_CHECKING:
    from model.layers.kernel_build import KernelBuild
    from model.layers.llama import Llama

CACHE_SHARE = 0.5  # of the memory that is left once the base is there, for keys and values
ADAPTER_SHARE = 0.25  # of that much again, for adapters

log = logging.getLogger(__name__)


def check_early(settings: Settings) -> None:
    """What can be said about the settings in a moment, before anything is loaded or served.

    Raises:
        LinlyError: the base or the templates cannot be used.
    """
    load_templates(settings.prompts_dir)
    if settings.engine_url:
        if settings.base_model != EMBEDDED_DEFAULT and not is_hub_id(settings.base_model):
            read_model_folder(local_folder(settings.base_model), weights=False)
        return
    if settings.base_model != EMBEDDED_DEFAULT and not is_hub_id(settings.base_model):
        path = local_folder(settings.base_model)
        read_model_folder(path)
        # Opening pickles takes torch, and its import seconds: these are looked at when loading.
        refuse_errors(collect_findings(lambda: quick_check(path, pickles=False)))
    if settings.quantization == "4bit" or settings.device == "cuda":
        _wait_without_spinning()
        from model.weight_loader import (
            resolve_device,  # seconds for torch, where a refusal may follow
        )

        resolve_device(settings.device, settings.quantization)


def load_local(settings: Settings, report: Report, adapters: Sequence[Path] = ()) -> Backend:
    """Load the base and start the engine on this machine. Takes seconds to minutes.

    Args:
        adapters: folders to serve beside those in `adapters_dir`, wherever they lie. One that does
            not fit is refused before the weights are read.

    Raises:
        LinlyError: it cannot be done, in one sentence.
    """
    report(Phase.STARTING, 0.0)
    _wait_without_spinning()
    # These import torch, which takes seconds: the page is up by now.
    from model.weight_loader import resolve_device

    device = resolve_device(settings.device, settings.quantization)
    # Compiling takes longer than most of what follows, so it begins now.
    with _compiling(settings, device) as build:
        path = find_base(settings, report)
        for warning in refuse_errors(collect_findings(lambda: quick_check(path))):
            log.warning("%s. %s", warning.message().rstrip("."), warning.remedy())
        serving = _serve(settings, read_model_folder(path), device, build, report, adapters)
    freeze_loaded_objects()
    return serving


@contextmanager
def _compiling(settings: Settings, device: str) -> Iterator[KernelBuild | None]:
    """Compiled decoding on its way where there is such a thing; called off if loading fails."""
    from model.layers.kernel_build import KernelBuild, supported

    build = KernelBuild(settings.cache_dir) if supported(device, settings.quantization) else None
    try:
        yield build
    except BaseException:
        if build:
            build.cancel()
        raise


def _serve(
    settings: Settings,
    folder: ModelFolder,
    device: str,
    build: KernelBuild | None,
    report: Report,
    adapters: Sequence[Path],
) -> Backend:
    from model.engine.local_engine import LocalEngine

    tokenizer = load_tokenizer(folder)
    templates, default = available_templates(folder, settings)
    facts = base_facts(folder, base_name(settings), tokenizer)
    registry = AdapterRegistry(settings.adapters_dir, facts, templates, adapters)
    for path in adapters:
        registry.get(path.name)
    model = _load_model(folder, settings, device, build, report)
    registry.scan()
    memory = settings.cache_memory or available_memory() * CACHE_SHARE
    engine = LocalEngine(
        model,
        tokenizer.vocab_size,
        lambda name, digest: registry.load(name, digest, model),
        settings.max_sequences,
        cache_bytes=int(memory),
        adapter_bytes=int(memory * ADAPTER_SHARE),
        max_waiting=settings.max_waiting,
    )
    eos_ids = end_token_ids(folder.eos_ids, tokenizer.eos_id, tokenizer.prefix_ids)
    return Backend(base_name(settings), engine, tokenizer, eos_ids, registry, templates, default)


def _load_model(
    folder: ModelFolder, settings: Settings, device: str, build: KernelBuild | None, report: Report
) -> Llama:
    """Read the weights; compiled decoding joins the model whenever it is ready."""
    import torch

    from model.engine.local_engine import PREFILL_CHUNK
    from model.weight_cache import WeightCache
    from model.weight_loader import load_model

    threads = settings.threads or available_cores()
    torch.set_num_threads(threads)
    model = load_model(
        folder,
        quantization=settings.quantization,
        device=device,
        context_length=settings.context_length,
        progress=lambda share: report(Phase.READING, share),
        cache=WeightCache(settings.cache_dir, folder) if build else None,
    )
    if build:
        build.attach_when_ready(model, threads, PREFILL_CHUNK, settings.max_sequences)
    return model


def _wait_without_spinning() -> None:
    """Let torch's threads sleep while they wait for each other; effective before torch's import.

    The page, browsers and other programs share the cores. Spinning threads then wait for partners
    whose core they themselves keep busy: decoding was three times slower beside a busy process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
