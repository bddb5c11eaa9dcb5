"""Builds the backend on this machine: checks the base, reads its weights, starts the engine."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from model.base_resolver import Report, available_templates, base_name, find_base, local_folder
from model.config.server_flags import EMBEDDED_DEFAULT
from model.config.settings import Settings
from model.diagnostics import Finding
from model.doctor.check_base import (
    collect_findings,
    compare_chat_template,
    quick_check,
    refuse_errors,
)
from model.folders.base_info import read_base_info
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

CACHE_SHARE = 0.5  # of the memory that is free after the base is loaded, for keys and values
ADAPTER_SHARE = 0.25  # of the memory for keys and values, as much again for adapters

log = logging.getLogger(__name__)


def check_early(settings: Settings) -> ModelFolder | None:
    """Runs the quick checks, before anything is loaded or served.

    Returns:
        the base's folder with its small files read; None if it has to be downloaded first.

    Raises:
        LinlyError: the base or the templates cannot be used.
    """
    load_templates(settings.prompts_dir)
    is_local = settings.base_model != EMBEDDED_DEFAULT and not is_hub_id(settings.base_model)
    if settings.engine_url:
        if not is_local:
            return None
        return read_model_folder(local_folder(settings.base_model), weights=False)
    folder = read_model_folder(local_folder(settings.base_model)) if is_local else None
    if folder:
        # Pickles need torch, whose import takes seconds: `load_local` checks them.
        refuse_errors(collect_findings(lambda: quick_check(folder, pickles=False)))
    if settings.quantization == "4bit" or settings.device == "cuda":
        _set_passive_waiting()
        from model.weight_loader import resolve_device  # imports torch, which takes seconds

        resolve_device(settings.device, settings.quantization)
    return folder


def load_local(
    settings: Settings,
    report: Report,
    adapters: Sequence[Path] = (),
    folder: ModelFolder | None = None,
) -> Backend:
    """Loads the base and starts the engine on this machine. Takes seconds to minutes.

    Args:
        settings: what to load, and how it is served.
        report: receives the phase and its progress.
        adapters: folders to serve beside those in `adapters_dir`. If one does not fit, an
            error is raised before the base's weights are read.
        folder: the base's folder, as `check_early` has read it.

    Raises:
        LinlyError: the base or an adapter cannot be used.
    """
    report(Phase.STARTING, 0.0)
    _set_passive_waiting()
    # This imports torch, which takes seconds: the page is served by now.
    from model.weight_loader import resolve_device

    device = resolve_device(settings.device, settings.quantization)
    # Compiling takes longer than most of the steps below, so it starts now.
    with _compiling(settings, device) as build:
        folder = folder or ModelFolder(find_base(settings, report))
        findings = collect_findings(lambda: quick_check(folder))
        _log(refuse_errors(findings))
        folder.check_small_files()
        _compare_chat_template(folder)
        backend = _start(settings, folder, device, build, report, adapters)
    freeze_loaded_objects()
    return backend


def _log(warnings: Iterable[Finding]) -> None:
    for warning in warnings:
        log.warning("%s. %s", warning.message().rstrip("."), warning.remedy())


def _compare_chat_template(folder: ModelFolder) -> None:
    """Warns, while the base is loading, of a template that renders otherwise than it should."""

    def compare() -> None:
        _log(collect_findings(lambda: compare_chat_template(folder)))

    threading.Thread(target=compare, name="template", daemon=True).start()


@contextmanager
def _compiling(settings: Settings, device: str) -> Iterator[KernelBuild | None]:
    """Compiles the decoder in the background where it is supported; cancels if loading fails."""
    from model.layers.kernel_build import KernelBuild, supported

    build = KernelBuild(settings.cache_dir) if supported(device, settings.quantization) else None
    try:
        yield build
    except BaseException:
        if build:
            build.cancel()
        raise


def _start(
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
    base_info = read_base_info(folder, base_name(settings), tokenizer)
    registry = AdapterRegistry(settings.adapters_dir, base_info, templates, adapters)
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
    return Backend(
        base_name(settings), engine, tokenizer, eos_ids, registry, templates, default,
        base_info.fingerprint,
    )  # fmt: skip


def _load_model(
    folder: ModelFolder, settings: Settings, device: str, build: KernelBuild | None, report: Report
) -> Llama:
    """Reads the weights. The compiled decoder is attached to the model when it is ready."""
    import torch

    from model.engine.step_runner import PREFILL_CHUNK
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


def _set_passive_waiting() -> None:
    """Makes torch's threads sleep while they wait for each other. Call it before torch is imported.

    The page, browsers and other programs share the cores. A thread that spins while it waits keeps
    busy the core that the thread it waits for needs: decoding was three times slower beside a busy
    process.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
