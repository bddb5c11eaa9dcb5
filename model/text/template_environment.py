"""Jinja environment in which chat templates render as in transformers, over traced text.

It has what transformers gives to each template: the filter `tojson` without HTML escapes,
`strftime_now`, `raise_exception`, loop controls and the tag `generation`. The sandbox below it
bounds time and memory. The operators, methods and filters of text keep the origin of each
character; a text made from a message in any other way counts as the message's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context, pass_environment
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context

from model.text.template_sandbox import BoundedEnvironment
from model.text.traced_text import TracedText, concat, derived, find_origin, format_traced

CHARS_A_STEP = 64  # an operation on a traced text counts as a step for so many characters
MAX_DATE_FORMAT = 200  # characters
DATE_WIDTH = re.compile(r"%[^a-zA-Z%]*\d{3,}")  # a field of that many characters
# Filters whose result is a part of their input, as it is.
SELECTING_FILTERS = frozenset({"attr", "d", "default", "first", "last", "max", "min"})


class _Generation(Extension):
    """The tag `generation`, which marks replies for training libraries and changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class ChatTemplateEnvironment(BoundedEnvironment):
    """Compiles one chat template, and renders chats with it."""

    def __init__(self) -> None:
        super().__init__(
            ("jinja2.ext.loopcontrols", _Generation),
            {"format": _format, "join": _join, "tojson": _to_json},
        )
        self.filters = {name: self._traced_filter(name, f) for name, f in self.filters.items()}
        self.globals |= {"raise_exception": _raise, "strftime_now": _strftime_now}

    def render_chat(
        self, template: Template, messages: Sequence[Mapping[str, str]], **values: Any
    ) -> str:
        """Renders a chat.

        Args:
            template: the compiled template.
            messages: with texts of messages as `TracedText`.
            values: by their names in the template.

        Raises:
            TemplateError: it takes too long or becomes too large, or fails in another way.
        """
        chars = sum(len(text) for message in messages for text in message.values())
        values |= {"messages": messages, "tools": None, "documents": None}
        return self.render_template(template, len(messages), chars, **values)

    # Methods that compiled templates call.

    def concat(self, parts: Iterable[str]) -> str:
        return concat(self.bounded_parts(parts))

    def to_text(self, value: Any) -> str:
        return value if isinstance(value, str) else self._derived(str(value), value)

    # Hooks of Jinja's sandbox.

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        bounded = super().wrap_str_format(value)
        if bounded is None:
            return None

        def traced(*args: Any, **kwargs: Any) -> str:
            def make(values: Any) -> str:
                return bounded(*values[0], **values[1])

            if isinstance(value.__self__, TracedText):
                return self._derived(make((args, kwargs)), value.__self__)
            return format_traced(make, (args, kwargs))

        return traced

    def call(
        __self,  # noqa: N805
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name != "format":
            __obj = __self._traced_method(owner, name, (args, kwargs)) or __obj
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        compute = super().call_binop
        if operator == "%" and isinstance(left, str) and not isinstance(left, TracedText):
            return format_traced(lambda values: compute(context, "%", left, values), right)
        return compute(context, operator, left, right)

    def _traced_method(self, owner: str, name: str, arguments: Any) -> Callable[..., Any] | None:
        """The method of a string that keeps origins; None if no text of a message is involved."""
        if self._find_origin((owner, arguments)) is None:
            return None
        self._spend_chars(owner)
        method: Callable[..., Any] = getattr(TracedText.of(owner), name)
        return method

    def _traced_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter whose result keeps the origins of its input, or counts as a message's."""

        @pass_context
        @wraps(function, updated=())
        def traced(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(value, TracedText):
                self._spend_chars(value)
            result = function(context, value, *args, **kwargs)
            is_new = isinstance(result, str) and not isinstance(result, TracedText)
            if is_new and name not in SELECTING_FILTERS:
                return self._derived(result, (value, args, kwargs))
            return result

        return traced

    def _find_origin(self, value: Any) -> str | None:
        return find_origin(value, self.spend)

    def _derived(self, text: str, sources: Any) -> str:
        return derived(text, self._find_origin(sources))

    def _spend_chars(self, text: str) -> None:
        self.spend(len(text) // CHARS_A_STEP)


@pass_environment
def _join(
    environment: ChatTemplateEnvironment, value: Any, d: Any = "", attribute: Any = None
) -> str:
    """Jinja's filter `join`, over traced text."""
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    separator = environment.to_text(d)
    return TracedText.of(separator).join(map(environment.to_text, items))


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    """Jinja's filter `format`, over traced text."""
    if args and kwargs:
        raise TemplateError("format takes either positional or keyword arguments")
    text = value if isinstance(value, str) else str(value)
    if isinstance(text, TracedText):
        return text % (kwargs or args)
    return format_traced(lambda values: text % values, kwargs or args)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` of transformers; Jinja's own escapes HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(format: str) -> str:  # noqa: A002
    if len(format) > MAX_DATE_FORMAT or DATE_WIDTH.search(format):
        raise TemplateError("the format of a date is too long")
    return datetime.now().strftime(format)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
