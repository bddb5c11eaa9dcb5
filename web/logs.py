"""What the program tells whoever runs it: lines of text, or JSON objects for what collects them.

Nothing of what people write is told unless `--log_prompts` asks for it, and no key ever.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from typing import Any

from pythonjsonlogger.json import JsonFormatter

from model.settings import Settings
from model.types import ChatRequest, Ended

# The program's own words (in JSON only: as text they are printed), and what --log_requests tells.
SAYS = logging.getLogger("linly.says")
REQUESTS = logging.getLogger("linly.requests")
FIELDS = ("levelname", "name", "message")


def configure(settings: Settings) -> None:
    """Set the handlers of this process up as `settings` say."""
    told = settings.log_requests or settings.log_prompts
    REQUESTS.setLevel(logging.INFO if told else logging.WARNING)
    if settings.log_format == "json":
        handler: logging.Handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(_json_lines())
        logging.getLogger().addHandler(handler)
        SAYS.setLevel(logging.INFO)
    elif told:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        REQUESTS.addHandler(handler)
        REQUESTS.propagate = False


def say(line: str) -> None:
    """One line, at once, whoever reads it."""
    if SAYS.isEnabledFor(logging.INFO):
        SAYS.info(line)
    else:
        print(line, flush=True)


def request(trace: str, method: str, path: str, status: int, seconds: float) -> None:
    """A request to the API has been answered; `status` 0 where nobody waited for it."""
    if REQUESTS.isEnabledFor(logging.INFO):
        _tell(
            f"{method} {path} {status} in {seconds:.3f} s",
            {"request_id": trace, "method": method, "path": path, "status": status,
             "seconds": round(seconds, 4)},
        )  # fmt: skip


def reply(ended: Ended) -> None:
    """A reply has ended, or was refused; also one of the page's."""
    if REQUESTS.isEnabledFor(logging.INFO) and ended.kind != "reading":
        facts = _facts(ended)
        numbers = "" if ended.stats is None else (
            f", {ended.stats.prompt_tokens} + {ended.stats.completion_tokens} tokens, first after "
            f"{ended.stats.first_token_seconds:.3f} s, {ended.stats.tokens_per_second:.1f} tokens/s"
        )  # fmt: skip
        _tell(f"{ended.kind} by {facts['adapter'] or 'base'}: {facts['ended']}{numbers}", facts)


def _facts(ended: Ended) -> dict[str, Any]:
    asked = ended.request
    facts: dict[str, Any] = {
        "request_id": asked.trace,
        "reply_id": asked.id,
        "adapter": asked.adapter,
        "ended": ended.reason.value if ended.reason else ended.code,
    }
    if ended.stats is not None:
        facts |= asdict(ended.stats)
        facts["tokens_per_second"] = round(ended.stats.tokens_per_second, 2)
    if ended.text is not None:
        facts["prompt"] = _prompt(asked) if isinstance(asked, ChatRequest) else asked.prompt
        facts["text"] = ended.text
    return facts


def _prompt(asked: ChatRequest) -> list[dict[str, Any]]:
    return [asdict(message) for message in asked.messages]


def _tell(line: str, facts: dict[str, Any]) -> None:
    """In JSON the facts; as text the line that they make, with what was asked and said."""
    known = facts["request_id"] or facts.get("reply_id", "")
    said = "".join(f" {name}={facts[name]!r}" for name in ("prompt", "text") if name in facts)
    REQUESTS.info("%s %s%s", known, one_line(line), said, extra=facts)


def one_line(text: str) -> str:
    """`text` with control, bidirectional and invisible characters escaped.

    A client could otherwise forge lines, or take over the operator's terminal.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _json_lines() -> logging.Formatter:
    return JsonFormatter(
        " ".join(f"%({field})s" for field in FIELDS),
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        json_ensure_ascii=False,
    )
