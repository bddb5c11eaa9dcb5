"""Checks that base, quantization and adapters are unchanged, so a reply can be reproduced."""

from __future__ import annotations

from model.errors import LinlyError, NotReadyError
from model.serving.manager import ModelManager
from web.chats.store.models import ChatMessage


class NotExactError(LinlyError):
    """A reply cannot be reproduced: something that it depends on has changed."""

    http_status = 409
    code = "not_exact"


def check_reproducible(manager: ModelManager, reply: ChatMessage) -> None:
    """Checks that the model can make a reply once more, exactly as it was.

    Raises:
        NotExactError: its runs are not known, or the base or an adapter of theirs has changed.
        NotReadyError: the model is loading, so the adapters are not known yet.
    """
    if not reply.runs:
        raise NotExactError("reply_origin_unknown")
    status = manager.status()
    if not status.ready:
        raise NotReadyError("model_loading")
    if status.remote:
        raise NotExactError(
            "exact_rerun_remote",
        )
    digests = {adapter.name: adapter.digest for adapter in manager.cached_adapters()}
    for run in reply.runs:
        if (run.base, run.quantization) != (status.base_model, status.quantization):
            raise NotExactError(
                "exact_rerun_other_base",
                base=run.base,
                quantization=run.quantization,
            )
        adapter = run.settings.adapter
        if adapter and run.adapter_digest and digests.get(adapter) != run.adapter_digest:
            raise NotExactError(
                "exact_rerun_other_adapter",
                adapter=adapter,
            )
