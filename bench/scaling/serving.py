"""The model as it serves, in this process: int8 weights and compiled code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from platformdirs import user_cache_path

from bench.scaling.figures import Loading
from bench.scaling.options import BEHIND, Options
from bench.scaling.source import Source
from model.config.settings import APP_NAME
from model.engine.local_engine import PREFILL_CHUNK
from model.layers.kernel_build import build_folder, make_decoder, supported
from model.layers.llama import Llama
from model.types import SettingsError
from model.weight_cache import WeightCache
from model.weight_loader import load_model


@contextmanager
def serving(source: Source, loading: Loading, options: Options, threads: int) -> Iterator[Llama]:
    """The model on so many threads, with positions enough for every context.

    Raises:
        LinlyError: there is no compiled code for this machine, or the model cannot be read.
    """
    if not supported("cpu", "8bit"):
        raise SettingsError("Compiled decoding needs 64-bit Linux", "Measure there.")
    torch.set_num_threads(threads)
    model = load_model(
        source.folder,
        quantization="8bit",
        device="cpu",
        context_length=max(*options.context, BEHIND) + PREFILL_CHUNK,
        progress=lambda _: None,
        cache=WeightCache(source.weights, source.folder) if loading.cache else None,
    )
    spans = max(*options.users, *options.adapters)
    # The program's own cache: compiled code does not depend on the model.
    folder = build_folder(user_cache_path(APP_NAME))
    decoder = make_decoder(folder, model, threads, PREFILL_CHUNK, spans)
    model.set_decoder(decoder)
    try:
        yield model
    finally:
        decoder.close()
