"""Values that the browser draws: the log, the side bar, and lines of HTML about the chat.

Their shape is a contract with `web/ui/static/chat_log.js` and `sidebar.js`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

from model.sampling import Sampling
from model.translations import LocalizedText, load_text, translate
from model.types import Queued, Status
from web.chats.message_tree import MessageTree
from web.chats.reply_job import ReplyJob
from web.chats.store.chats import MAX_LISTED_CHATS
from web.chats.store.models import (
    Chat,
    ChatMessage,
    ChatSettings,
    GenerationRun,
    MessageState,
    Vote,
)
from web.chats.tab_sessions import PrefillProgress, TabSession
from web.ui.presets import preset_from_sampling

DIGEST = 12  # characters of a digest that are shown
SUGGESTIONS = 3  # questions that an empty chat offers
Value = dict[str, Any]


def failed_value(chat: str | None, error: LocalizedText, language: str) -> Value:
    """Returns a log that cannot be read now, with the error. The shown chat stays the same."""
    value: Value = {"chat": chat, "language": language, "messages": [], "comparison": None}
    return {**value, "empty": error.sentence(language)}


def log_value(tree: MessageTree | None, votes: Iterable[Vote], language: str) -> Value:
    """Returns the shown branch; if it ends with a comparison, its replies are side by side."""
    value: Value = {
        "chat": tree.chat.id if tree else None,
        "language": language,
        "empty": translate(language, "empty_chat"),
        "suggestions": [],
        "messages": [],
        "comparison": None,
    }
    if tree is None:
        value["suggestions"] = [
            translate(language, f"suggestion_{n + 1}") for n in range(SUGGESTIONS)
        ]
        return value
    last = tree.last.id if tree.last else None
    value["messages"] = [
        _message(message, tree, language, last=message.id == last) for message in tree.branch
    ]
    compared = tree.compared
    if compared:
        value["comparison"] = _comparison(compared, tree, votes, language)
    return value


def _comparison(
    compared: list[ChatMessage], tree: MessageTree, votes: Iterable[Vote], language: str
) -> Value:
    number = compared[0].comparison
    vote = next((vote for vote in votes if vote.comparison == number), None)
    return {
        "id": number,
        "vote": (vote.winner or "tie") if vote else None,
        "replies": [
            {**_message(reply, tree, language, last=False), "who": _rival_name(reply, language)}
            for reply in compared
        ],
    }


def _rival_name(reply: ChatMessage, language: str) -> str:
    """Returns the heading of a compared reply: adapter, its scale, and the temperature."""
    if not reply.runs:
        return ""
    settings = reply.runs[0].settings
    name = _adapter_name(settings) or translate(language, "the_base")
    return f"{name} · {translate(language, 'temperature')} {settings.sampling.temperature:g}"


def _message(message: ChatMessage, tree: MessageTree, language: str, last: bool) -> Value:
    run = message.runs[-1] if message.runs else None
    streaming = message.state is MessageState.STREAMING
    ended = run is not None and run.reason is not None
    return {
        "id": message.id,
        "role": message.role,
        "text": message.text,
        "state": message.state.value,
        "error": load_text(message.error).sentence(language) if message.error else "",
        "notice": _notice(message, tree, language),
        "branch": _versions(message, tree),
        "facts": facts_line(message.runs, language) if ended else "",
        "provenance": _provenance(message.runs, language) if run and not streaming else [],
        "exact": ended and not streaming,
        "continues": last and message.role == "assistant" and message.state.can_continue,
        "comparison": message.comparison,
    }


def _versions(message: ChatMessage, tree: MessageTree) -> Value:
    """Returns a message's place among its versions, counted from 1, and the ids beside it."""
    versions = tree.siblings[message.parent, message.role]
    at = next(i for i, version in enumerate(versions) if version.id == message.id)
    return {
        "at": at + 1,
        "of": len(versions),
        "before": versions[at - 1].id if at else None,
        "after": versions[at + 1].id if at + 1 < len(versions) else None,
    }


def _notice(message: ChatMessage, tree: MessageTree, language: str) -> str:
    """Returns remarks on a reply: turns that did not fit the context, or how a rerun went."""
    sentences = []
    dropped = [run for run in message.runs if run.dropped_messages]
    if dropped:
        last = dropped[-1]
        sentences.append(translate(language, "dropped", messages=last.dropped_messages,
                                   tokens=last.dropped_tokens))  # fmt: skip
    first = tree.messages.get(message.repeats or "")
    if first and message.state is not MessageState.STREAMING:
        key = "same_text" if first.text == message.text else "other_text"
        sentences.append(translate(language, key))
    return " ".join(sentences)


def facts_line(runs: tuple[GenerationRun, ...], language: str) -> str:
    """Returns the line under a reply: tokens, speed, and the adapter or base."""
    last = runs[-1]
    return translate(
        language, "facts",
        completion=sum(run.completion_tokens for run in runs),
        prompt=last.prompt_tokens,
        speed=f"{last.tokens_per_second:.1f}",
        who=_adapter_name(last.settings) or last.base,
    )  # fmt: skip


def _adapter_name(settings: ChatSettings) -> str:
    """Returns the adapter with its scale, unless that is 1; "" for the base."""
    if not settings.adapter or settings.adapter_scale == 1:
        return settings.adapter or ""
    return f"{settings.adapter} × {settings.adapter_scale:g}"


def _provenance(runs: tuple[GenerationRun, ...], language: str) -> list[list[str]]:
    """Returns everything that determined a reply, as rows of a label and a value."""
    run = runs[-1]
    settings = run.settings
    rows = {
        "provenance_adapter": settings.adapter or "–",
        "provenance_digest": _distinct(run.adapter_digest[:DIGEST] for run in runs),
        "strength": f"{settings.adapter_scale:g}" if settings.adapter else "–",
        "provenance_base": _distinct(run.base for run in runs),
        "provenance_quantization": _distinct(run.quantization for run in runs),
        "template": settings.template or "–",
        "system_prompt": settings.system or "–",
        "provenance_seed": ", ".join(str(run.settings.sampling.seed) for run in runs),
        "preset": _sampling_line(settings.sampling, language),
        "provenance_tokens": translate(
            language, "provenance_counts", prompt=run.prompt_tokens, cached=run.cached_tokens,
            completion=sum(run.completion_tokens for run in runs),
        ),
        "provenance_speed": translate(
            language, "provenance_speeds", speed=f"{run.tokens_per_second:.1f}",
            first=f"{run.first_token_seconds:.2f}",
        ),
    }  # fmt: skip
    return [[translate(language, key), value] for key, value in rows.items()]


def _sampling_line(sampling: Sampling, language: str) -> str:
    values = {name: f"{value:g}" for name, value in preset_from_sampling(sampling).items()}
    return translate(language, "provenance_sampling", max_tokens=sampling.max_tokens, **values)


def _distinct(values: Iterable[str]) -> str:
    """Returns the distinct values of a reply's runs: it may have been continued by another base, or
    by an adapter that was trained again."""
    return ", ".join(dict.fromkeys(filter(None, values))) or "–"


def live_notice(reply: ReplyJob, language: str) -> str:
    """Returns what a reply in the making waits for; "" if it does not wait."""
    if reply.model_status:
        return _loading(reply.model_status, language)
    return _queue_line(reply.queued, language) if reply.queued else ""


def _loading(status: Status, language: str) -> str:
    return translate(language, "waiting_for_model", percent=round(status.progress * 100))


def _queue_line(queued: Queued, language: str) -> str:
    """Returns a reply's place in the queue, and the time until it begins."""
    place, seconds = queued.ahead + 1, round(queued.seconds)
    return translate(language, f"queued_{queued.reason}", place=place, seconds=seconds)


def meter_line(tokens: int, context_length: int, language: str) -> str:
    """Returns how much of the context a chat takes, as HTML."""
    text = escape(translate(language, "meter", tokens=tokens, context=context_length))
    return (
        f'<meter min="0" max="{context_length}" high="{context_length * 0.85:.0f}" '
        f'value="{tokens}" aria-label="{text}" title="{text}"></meter>'
        f"<span>{text}</span>"
    )


def prefill_line(progress: PrefillProgress | None, language: str) -> str:
    """Returns the progress of the prefill ahead, as HTML."""
    if progress is None:
        return ""
    text = translate(
        language,
        "read" if progress.done else "reading",
        who=progress.adapter or translate(language, "the_base"),
        tokens=progress.tokens,
        known=progress.cached_tokens,
    )
    return f'<span class="reading" role="status">{escape(text)}</span>'


def sidebar_value(chats: Sequence[Chat], running: Collection[str], tab: TabSession) -> Value:
    """Returns the visitor's chats. One more than `MAX_LISTED_CHATS` means that there are more."""
    return {
        "language": tab.language,
        "chats": [
            {
                "id": chat.id,
                "title": chat.title,
                "updated": chat.updated,
                "running": chat.id in running,
            }
            for chat in chats[:MAX_LISTED_CHATS]
        ],
        "more": len(chats) > MAX_LISTED_CHATS and not tab.query,
        "current": tab.chat,
        "query": tab.query,
        "deleted": {"id": tab.deleted_chat.id, "title": tab.deleted_chat.title}
        if tab.deleted_chat
        else None,
        "persistent": tab.owner.persistent,
    }
