"""From settings to something that serves: find the base, read it, start the local engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.config.server_flags import EMBEDDED_DEFAULT
from model.config.settings import CHECKOUT, Settings
from model.default_model import ensure_embedded
from model.diagnostics import Finding, folder_error, to_error
from model.display import printable_name
from model.doctor.check_base import collect_findings, quick_check
from model.engine.protocol import Engine
from model.folders.base_info import base_facts
from model.folders.hub import download, is_hub_id, is_offline, list_files
from model.folders.model_folder import ModelFolder, load_tokenizer, read_model_folder
from model.garbage import spare_loaded_objects
from model.serving.adapter_registry import AdapterRegistry
from model.system_resources import available_cores, available_memory
from model.text.prompt import PromptTemplate, load_templates
from model.text.special_tokens import sane_ids
from model.text.tokenizer import Tokenizer
from model.types import ModelFolderError, Phase

if TYPE_CHECKING:
    from model.layers.kernel_build import KernelBuild
    from model.layers.llama import Llama

OWN_TEMPLATE = "model"  # the name under which the model's own chat template is listed

CACHE_SHARE = 0.5  # of the memory that is left once the base is there, for keys and values
ADAPTER_SHARE = 0.25  # of that much again, for adapters

Report = Callable[[Phase, float], None]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """A base that can be talked to. `tuned` tells whether it has a chat template of its own."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    registry: AdapterRegistry
    templates: Mapping[str, PromptTemplate]
    default_template: str

    @property
    def has_chat_template(self) -> bool:
        return self.default_template == OWN_TEMPLATE


def base_name(settings: Settings) -> str:
    """What the base is called towards clients: never a path, and always text that can be sent."""
    return printable_name(Path(settings.base_model).name)


def check_early(settings: Settings) -> None:
    """What can be said about the settings in a moment, before anything is loaded or served.

    Raises:
        LinlyError: the base or the templates cannot be used.
    """
    load_templates(settings.prompts_dir)
    if settings.engine_url:
        if settings.base_model != EMBEDDED_DEFAULT and not is_hub_id(settings.base_model):
            read_model_folder(_local_folder(settings.base_model), weights=False)
        return
    if settings.base_model != EMBEDDED_DEFAULT and not is_hub_id(settings.base_model):
        path = _local_folder(settings.base_model)
        read_model_folder(path)
        # Opening pickles takes torch, and its import seconds: these are looked at when loading.
        refuse_errors(collect_findings(lambda: quick_check(path, pickles=False)))
    if settings.quantization == "4bit" or settings.device == "cuda":
        _wait_without_spinning()
        from model.weight_loader import (
            resolve_device,  # seconds for torch, where a refusal may follow
        )

        resolve_device(settings.device, settings.quantization)


def refuse_errors(found: Iterable[Finding]) -> list[Finding]:
    """The warnings among what was found about a base.

    Raises:
        ModelFolderError: there is an error among them.
    """
    findings = list(found)
    for one in findings:
        if one.level == "error":
            raise to_error(one)
    return [one for one in findings if one.level == "warning"]


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
    spare_loaded_objects()
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
    templates, default = known_templates(folder, settings)
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
    eos_ids = sane_ids(folder.eos_ids, tokenizer.eos_id, tokenizer.prefix_ids)
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


def find_base(settings: Settings, report: Report) -> Path:
    if settings.base_model == EMBEDDED_DEFAULT:
        return ensure_embedded(settings.cache_dir, report)
    if is_hub_id(settings.base_model):
        report(Phase.FETCHING, 0.0)
        return _download(settings.base_model)
    return _local_folder(settings.base_model)


def _download(repo: str) -> Path:
    """A repository in the Hugging Face layout; another format is named before it is fetched."""
    if not is_offline() and "config.json" not in {file.name for file in list_files(repo)}:
        raise folder_error("needs_conversion", folder=repo, source=repo)
    return download(repo)


def _local_folder(name: str) -> Path:
    """`name` as a path, or a folder of that name in the checkout's models/."""
    in_models = CHECKOUT / "models" / name
    return in_models if not Path(name).is_dir() and in_models.is_dir() else Path(name)


def known_templates(
    folder: ModelFolder, settings: Settings
) -> tuple[dict[str, PromptTemplate], str]:
    """All templates by name, and which of them this base speaks."""
    templates = load_templates(settings.prompts_dir)
    if folder.chat_template is not None:
        own = PromptTemplate(OWN_TEMPLATE, folder.chat_template, "The model's own", folder.stop)
        return {OWN_TEMPLATE: own, **templates}, OWN_TEMPLATE
    if not templates:
        raise ModelFolderError(
            f"{folder.path} has no chat template and {settings.prompts_dir} has none either",
            "Pass --prompts_dir with the project's prompts folder.",
        )
    looks_like = "chinese-alpaca" if "alpaca" in folder.name.lower() else "linly"
    return templates, looks_like if looks_like in templates else next(iter(templates))
