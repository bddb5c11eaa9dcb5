"""The page's allowlist: paths that exist, with their methods, and the limits of their bodies."""

from __future__ import annotations

import re
from dataclasses import dataclass

from starlette.types import Scope

from model.errors import LinlyError
from model.translations import LocalizedText

MB = 1_000_000


class RejectedError(LinlyError):
    """A request is refused before its body is read, with an HTTP status."""

    def __init__(self, status: int, text: str | LocalizedText, **facts: object) -> None:
        super().__init__(text, **facts)
        self.status = status


@dataclass(frozen=True)
class Rule:
    """An allowed path with its methods.

    `max_bytes` limits the body. `public` paths need no login; `trains` marks paths for visitors
    who may train.
    """

    path: re.Pattern[str]
    methods: tuple[str, ...] = ("GET", "HEAD")
    max_bytes: int = 0
    public: bool = False
    trains: bool = False


NAME = r"[\w.-]+"  # of a file; `rule_for` refuses paths with ".."


def _rule(path: str, *methods: str, max_bytes: int = 0, public: bool = False,
          trains: bool = False) -> Rule:  # fmt: skip
    return Rule(re.compile(path, re.ASCII), methods or ("GET", "HEAD"), max_bytes, public, trains)


RULES = (
    _rule(r"/"),
    _rule(r"/page/events", "WEBSOCKET"),
    _rule(r"/page/actions/(send|edit|compare|save_snippet)", "POST", max_bytes=5 * MB),
    _rule(r"/page/actions/train_(look|start|cancel|chat)", "POST", max_bytes=MB, trains=True),
    _rule(r"/page/actions/[a-z_]{1,40}", "POST", max_bytes=MB),
    _rule(r"/page/import", "POST", max_bytes=5 * MB),
    _rule(r"/page/export", "POST", max_bytes=MB),
    _rule(r"/page/upload", "POST", max_bytes=50 * MB, trains=True),
    _rule(rf"/page/(vendor/{NAME}/)?{NAME}\.(js|mjs|css)", public=True),
    _rule(rf"/(assets|static)/({NAME}/){{0,4}}{NAME}", public=True),
    _rule(r"/(theme\.css|favicon\.ico)", public=True),
    _rule(r"/login", public=True),
    _rule(r"/login", "POST", max_bytes=8_000, public=True),
    _rule(r"/logout", "POST", max_bytes=8_000),
    _rule(rf"/docs|/openapi\.json|/static-offline-docs/{NAME}"),
)


def rule_for(scope: Scope) -> Rule:
    """Returns the rule for a request.

    Raises:
        RejectedError: the path is not allowed, or not with this method.
    """
    method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
    matches = [rule for rule in RULES if rule.path.fullmatch(scope["path"])]
    if not matches or ".." in scope["path"]:
        raise RejectedError(404, "not_found")
    rule = next((rule for rule in matches if method in rule.methods), None)
    if rule is None:
        raise RejectedError(405, "method_not_allowed", method=method)
    return rule
