"""Logs for the operator: lines of text, or JSON objects for log collectors.

Prompts and replies are logged with `--log_prompts` only, keys never.
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

STATUS = logging.getLogger("linly.says")  # in JSON only; as text, status lines are printed
REQUESTS = logging.getLogger("linly.requests")  # for --log_requests
PRINTED = logging.getLogger("linly.printed")  # in JSON only: what libraries print
FIELDS = ("levelname", "name", "message")


def configure(settings: Settings) -> None:
    """Sets the log handlers and the standard streams of this process up as `settings` say.

    Text from clients cannot begin a line, or reach the terminal as a control character.
    """
    logging.setLogRecordFactory(SafeRecord)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # no stack trace for a line that cannot be written
    threading.excepthook = _log_thread_error
    log_requests = settings.log_requests or settings.log_prompts
    REQUESTS.setLevel(logging.INFO if log_requests else logging.WARNING)
    if settings.log_format == "json":
        _log_json()
    else:
        _log_text(log_requests)


def _log_json() -> None:
    """Writes everything as JSON objects to stdout, also what libraries print."""
    _add_handler(logging.getLogger(), sys.stdout, _json_lines())
    STATUS.setLevel(logging.INFO)
    PRINTED.setLevel(logging.INFO)
    sys.stdout = LoggedStream(PRINTED, logging.INFO)
    sys.stderr = LoggedStream(PRINTED, logging.WARNING)


def _log_text(log_requests: bool) -> None:
    """Writes lines of text: warnings to stderr, requests (if logged) to stdout."""
    lines = logging.Formatter("%(asctime)s %(levelname)s: %(message)s")
    _add_handler(logging.getLogger(), sys.stderr, lines)
    if log_requests:
        _add_handler(REQUESTS, sys.stdout, logging.Formatter("%(asctime)s %(message)s"))
        REQUESTS.propagate = False
    sys.stdout, sys.stderr = EscapingStream(sys.stdout), EscapingStream(sys.stderr)


def _add_handler(logger: logging.Logger, stream: TextIO, formatter: logging.Formatter) -> None:
    if isinstance(stream, io.TextIOWrapper):
        # A character that the terminal's encoding lacks must not raise an error.
        stream.reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    """Logs an uncaught error of a thread, which Python would print."""
    if args.exc_type is not SystemExit and args.exc_value is not None:
        error = (args.exc_type, args.exc_value, args.exc_traceback)
        name = args.thread.name if args.thread else "unknown"
        logging.getLogger("linly").error("the thread %s failed", name, exc_info=error)


def print_status(line: str) -> None:
    """Prints a line for the operator at once, or logs it as JSON."""
    if STATUS.isEnabledFor(logging.INFO):
        STATUS.info(line)
    else:
        print(one_line(line), flush=True)


def log_request(trace: str, method: str, path: str, status: int, seconds: float) -> None:
    """Logs an API request at its end; `status` is 0 if the client disconnected before."""
    if REQUESTS.isEnabledFor(logging.INFO):
        _log(
            f"{method} {path} {status} in {seconds:.3f} s",
            {"request_id": trace, "method": method, "path": path, "status": status,
             "seconds": round(seconds, 4)},
        )  # fmt: skip


def log_reply(completed: CompletedRequest) -> None:
    """Logs a reply of the API or the page that has ended or was refused."""
    if REQUESTS.isEnabledFor(logging.INFO) and completed.kind != "prefill":
        fields = _reply_fields(completed)
        stats = completed.stats
        numbers = "" if stats is None else (
            f", {stats.prompt_tokens} + {stats.completion_tokens} tokens, first after "
            f"{stats.first_token_seconds:.3f} s, {stats.tokens_per_second:.1f} tokens/s"
        )  # fmt: skip
        adapter = fields["adapter"] or "base"
        _log(f"{completed.kind} by {adapter}: {fields['ended']}{numbers}", fields)


def _reply_fields(completed: CompletedRequest) -> dict[str, Any]:
    request = completed.request
    fields: dict[str, Any] = {
        "request_id": request.trace,
        "reply_id": request.id,
        "adapter": request.adapter,
        "ended": completed.reason.value if completed.reason else completed.code,
    }
    if completed.stats is not None:
        fields |= asdict(completed.stats)
        fields["tokens_per_second"] = round(completed.stats.tokens_per_second, 2)
    if completed.text is not None:
        if isinstance(request, ChatRequest):
            fields["prompt"] = [asdict(message) for message in request.messages]
        else:
            fields["prompt"] = request.prompt
        fields["text"] = completed.text
    return fields


def _log(line: str, fields: dict[str, Any]) -> None:
    """Logs the fields as JSON, or the line with the prompt and the text as text."""
    request_id = fields["request_id"] or fields.get("reply_id", "")
    texts = "".join(f" {name}={fields[name]!r}" for name in ("prompt", "text") if name in fields)
    REQUESTS.info("%s %s%s", request_id, one_line(line), texts, extra=fields)


def _json_lines() -> logging.Formatter:
    return JsonFormatter(
        " ".join(f"%({field})s" for field in FIELDS),
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
        json_ensure_ascii=False,
        json_serializer=json_line,
    )
