"""What the program tells whoever runs it: lines of text, or JSON objects for what collects them.

Nothing of what people write is told unless `--log_prompts` asks for it, and no key ever.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from dataclasses import asdict
from typing import Any, TextIO

from pythonjsonlogger.json import JsonFormatter

from model.config.settings import Settings
from model.types import ChatRequest, CompletedRequest
from web.log_escaping import EscapingStream, LoggedStream, SafeRecord, json_line, one_line

# The program's own words (in JSON only: as text they are printed), and what --log_requests tells.
SAYS = logging.getLogger("linly.says")
REQUESTS = logging.getLogger("linly.requests")
PRINTED = logging.getLogger("linly.printed")  # in JSON: what libraries print
FIELDS = ("levelname", "name", "message")


def configure(settings: Settings) -> None:
    """Set the handlers and the standard streams of this process up as `settings` say.

    Nothing that a client sends can begin a line, or reach the terminal as a control character.
    """
    logging.setLogRecordFactory(SafeRecord)
    logging.captureWarnings(True)
    threading.excepthook = _log_thread_error
    log_requests = settings.log_requests or settings.log_prompts
    REQUESTS.setLevel(logging.INFO if log_requests else logging.WARNING)
    if settings.log_format == "json":
        _log_json()
    else:
        _log_text(log_requests)


def _log_json() -> None:
    """JSON objects on stdout for everything, also for what libraries print."""
    _add_handler(logging.getLogger(), sys.stdout, _json_lines())
    SAYS.setLevel(logging.INFO)
    PRINTED.setLevel(logging.INFO)
    sys.stdout = LoggedStream(PRINTED, logging.INFO)
    sys.stderr = LoggedStream(PRINTED, logging.WARNING)


def _log_text(log_requests: bool) -> None:
    """Lines: warnings on stderr, and requests on stdout where they are logged."""
    lines = logging.Formatter("%(asctime)s %(levelname)s: %(message)s")
    _add_handler(logging.getLogger(), sys.stderr, lines)
    if log_requests:
        _add_handler(REQUESTS, sys.stdout, logging.Formatter("%(asctime)s %(message)s"))
        REQUESTS.propagate = False
    sys.stdout, sys.stderr = EscapingStream(sys.stdout), EscapingStream(sys.stderr)


def _add_handler(logger: logging.Logger, stream: TextIO, formatter: logging.Formatter) -> None:
    if isinstance(stream, io.TextIOWrapper):
        # A letter that the terminal's encoding lacks must not be an error.
        stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    """Python would print it."""
    if args.exc_type is not SystemExit and args.exc_value is not None:
        error = (args.exc_type, args.exc_value, args.exc_traceback)
        name = args.thread.name if args.thread else "unknown"
        logging.getLogger("linly").error("the thread %s failed", name, exc_info=error)


def print_status(line: str) -> None:
    """One line, at once, whoever reads it."""
    if SAYS.isEnabledFor(logging.INFO):
        SAYS.info(line)
    else:
        print(one_line(line), flush=True)


def request(trace: str, method: str, path: str, status: int, seconds: float) -> None:
    """A request to the API has been answered; `status` 0 where nobody waited for it."""
    if REQUESTS.isEnabledFor(logging.INFO):
        _tell(
            f"{method} {path} {status} in {seconds:.3f} s",
            {"request_id": trace, "method": method, "path": path, "status": status,
             "seconds": round(seconds, 4)},
        )  # fmt: skip


def reply(ended: CompletedRequest) -> None:
    """A reply has ended, or was refused; also one of the page's."""
    if REQUESTS.isEnabledFor(logging.INFO) and ended.kind != "prefill":
        facts = _facts(ended)
        numbers = "" if ended.stats is None else (
            f", {ended.stats.prompt_tokens} + {ended.stats.completion_tokens} tokens, first after "
            f"{ended.stats.first_token_seconds:.3f} s, {ended.stats.tokens_per_second:.1f} tokens/s"
        )  # fmt: skip
        _tell(f"{ended.kind} by {facts['adapter'] or 'base'}: {facts['ended']}{numbers}", facts)


def _facts(ended: CompletedRequest) -> dict[str, Any]:
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


def _json_lines() -> logging.Formatter:
    return JsonFormatter(
        " ".join(f"%({field})s" for field in FIELDS),
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        json_ensure_ascii=False,
        json_serializer=json_line,
    )
