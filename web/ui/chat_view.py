"""What the browser draws of chats: values for the log and the side bar.

Their shape is a contract with `web/ui/static/log.js` and `sidebar.js`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import Any

from model.translations import LocalizedText, load_text, translate
from model.types import Queued, Status
from web.chats.message_tree import MessageTree
from web.chats.reply_job import ReplyJob
from web.chats.store.chats import MAX_LISTED_CHATS
from web.chats.store.models import Chat, ChatMessage, GenerationRun, MessageState, Vote
from web.chats.tab_sessions import PrefillProgress, TabSession

DIGEST = 12  # characters of a digest that are shown
SUGGESTIONS = 3  # for who does not know what to ask
Value = dict[str, Any]


def failed_value(chat: str | None, error: LocalizedText, language: str) -> Value:
    """A log that cannot be read now: the chat stays the one that is shown."""
    said = error.sentence(language)
    return {"chat": chat, "language": language, "messages": [], "comparison": None, "empty": said}


def log_value(tree: MessageTree | None, votes: Iterable[Vote], language: str) -> Value:
    """The branch that is shown, and replies side by side where it ends with a comparison."""
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
            {**_message(reply, tree, language, last=False), "who": _rival(reply, language)}
            for reply in compared
        ],
    }


def _rival(reply: ChatMessage, language: str) -> str:
    """Who answers, in a comparison: adapter, strength and what else tells rivals apart."""
    if not reply.runs:
        return ""
    settings = reply.runs[0].settings
    who = settings.adapter or translate(language, "the_base")
    is_scaled = settings.adapter and settings.adapter_scale != 1
    strength = f" × {settings.adapter_scale:g}" if is_scaled else ""
    return (
        f"{who}{strength} · {translate(language, 'temperature')} {settings.sampling.temperature:g}"
    )


def _message(message: ChatMessage, tree: MessageTree, language: str, last: bool) -> Value:
    beside = tree.siblings[message.parent, message.role]
    at = next(i for i, other in enumerate(beside) if other.id == message.id)
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
        "branch": {
            "at": at + 1,
            "of": len(beside),
            "before": beside[at - 1].id if at else None,
            "after": beside[at + 1].id if at + 1 < len(beside) else None,
        },
        "facts": facts_line(message.runs, language) if ended else "",
        "provenance": _provenance(message.runs, language) if run and not streaming else [],
        "exact": ended and not streaming,
        "continues": last and message.role == "assistant" and message.state.can_continue,
        "comparison": message.comparison,
    }


def _notice(message: ChatMessage, tree: MessageTree, language: str) -> str:
    """What is to be known about a reply: turns that were left out, or how a repetition went."""
    said = []
    dropped = [run for run in message.runs if run.dropped_messages]
    if dropped:
        last = dropped[-1]
        said.append(translate(language, "dropped", messages=last.dropped_messages,
                        tokens=last.dropped_tokens))  # fmt: skip
    first = tree.messages.get(message.repeats or "")
    if first and message.state is not MessageState.STREAMING:
        key = "same_text" if first.text == message.text else "other_text"
        said.append(translate(language, key))
    return " ".join(said)


def facts_line(runs: tuple[GenerationRun, ...], language: str) -> str:
    """Tokens, speed and who answered."""
    last = runs[-1]
    return translate(
        language, "facts",
        completion=sum(run.completion_tokens for run in runs),
        prompt=last.prompt_tokens,
        speed=f"{last.tokens_per_second:.1f}",
        who=_who(last),
    )  # fmt: skip


def _who(run: GenerationRun) -> str:
    settings = run.settings
    if not settings.adapter:
        return run.base
    strength = f" × {settings.adapter_scale:g}" if settings.adapter_scale != 1 else ""
    return f"{settings.adapter}{strength}"


def _provenance(runs: tuple[GenerationRun, ...], language: str) -> list[list[str]]:
    """Everything that a reply came from, as rows of a label and a value."""
    run = runs[-1]
    settings, sampling = run.settings, run.settings.sampling
    rows = {
        "provenance_adapter": settings.adapter or "–",
        "provenance_digest": _each(one.adapter_digest[:DIGEST] for one in runs),
        "strength": f"{settings.adapter_scale:g}" if settings.adapter else "–",
        "provenance_base": _each(one.base for one in runs),
        "provenance_quantization": _each(one.quantization for one in runs),
        "template": settings.template or "–",
        "system_prompt": settings.system or "–",
        "provenance_seed": ", ".join(str(one.settings.sampling.seed) for one in runs),
        "preset": translate(
            language, "provenance_sampling", temperature=f"{sampling.temperature:g}",
            top_p=f"{sampling.top_p:g}", top_k=sampling.top_k, min_p=f"{sampling.min_p:g}",
            penalty=f"{sampling.repetition_penalty:g}", max_tokens=sampling.max_tokens,
        ),
        "provenance_tokens": translate(
            language, "provenance_counts", prompt=run.prompt_tokens, cached=run.cached_tokens,
            completion=sum(one.completion_tokens for one in runs),
        ),
        "provenance_speed": translate(
            language, "provenance_speeds", speed=f"{run.tokens_per_second:.1f}",
            first=f"{run.first_token_seconds:.2f}",
        ),
    }  # fmt: skip
    return [[translate(language, key), value] for key, value in rows.items()]


def _each(values: Iterable[str]) -> str:
    """What the runs of a reply have in common, or else each: it may have been continued by another
    base, or by an adapter that was trained anew."""
    return ", ".join(dict.fromkeys(filter(None, values))) or "–"


def live_notice(reply: ReplyJob, language: str) -> str:
    """What a reply in the making waits for; "" if it does not."""
    if reply.model_status:
        return _loading(reply.model_status, language)
    return _queue_line(reply.queued, language) if reply.queued else ""


def _loading(status: Status, language: str) -> str:
    return translate(language, "waiting_for_model", percent=round(status.progress * 100))


def _queue_line(queued: Queued, language: str) -> str:
    """What a reply waits for, and for how long."""
    place, seconds = queued.ahead + 1, round(queued.seconds)
    return translate(language, f"queued_{queued.reason}", place=place, seconds=seconds)


def meter_line(tokens: int, context_length: int, language: str) -> str:
    """How much of the context a chat takes, as HTML."""
    words = escape(translate(language, "meter", tokens=tokens, context=context_length))
    return (
        f'<meter min="0" max="{context_length}" high="{context_length * 0.85:.0f}" '
        f'value="{tokens}" aria-label="{words}" title="{words}"></meter>'
        f"<span>{words}</span>"
    )


def reading_line(reading: PrefillProgress | None, language: str) -> str:
    """What is read ahead, as HTML."""
    if reading is None:
        return ""
    who = reading.adapter or translate(language, "the_base")
    key = "read" if reading.done else "reading"
    words = translate(language, key, who=who, tokens=reading.tokens, known=reading.cached_tokens)
    return f'<span class="reading" role="status">{escape(words)}</span>'


def sidebar_value(chats: Sequence[Chat], running: Collection[str], visit: TabSession) -> Value:
    """The visitor's chats; one more than are shown tells that there are more."""
    return {
        "language": visit.language,
        "chats": [
            {
                "id": chat.id,
                "title": chat.title,
                "updated": chat.updated,
                "running": chat.id in running,
            }
            for chat in chats[:MAX_LISTED_CHATS]
        ],
        "more": len(chats) > MAX_LISTED_CHATS and not visit.query,
        "current": visit.chat,
        "query": visit.query,
        "deleted": {"id": visit.deleted_chat.id, "title": visit.deleted_chat.title}
        if visit.deleted_chat
        else None,
        "kept": visit.owner.persistent,
    }
