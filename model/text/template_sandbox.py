"""Jinja environment for chat templates of unknown origin: limits their steps, time and memory.

Jinja's own sandbox keeps a template from reaching Python, but lets it run for ever or fill the
memory. This one counts each block that is entered (a body of a loop, a macro, a branch), checks the
size before each operation that makes a value larger than its parts, and leaves out what no chat
template needs: padding methods, and filters for layout. The limits are counts, not clock time,
except for a limit of processor time that no usual template comes near.

A list, a tuple or a dictionary is weighed when it is made, with everything in it, so that no value
can be built whose text is exponentially long.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any

from jinja2 import Template, TemplateError, pass_context
from jinja2.ext import Extension
from jinja2.filters import FILTERS as JINJAS_FILTERS
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS as JINJAS_TESTS
from jinja2.utils import Namespace

from model.text.template_codegen import BoundedGenerator

MAX_SOURCE = 100_000  # characters; the longest published one has 30,000
MAX_STEPS = 1_000_000  # blocks that are entered
STEPS_A_MESSAGE = 1000
MAX_CHARS = 1_000_000  # of a value, and of the output
CHARS_A_CHAR = 8  # more for each character of the messages
MAX_ITEMS = 100_000  # of a list, with everything in it; also the limit of the sandbox's range
MAX_ARGUMENT = 10_000  # for numbers that a filter or a method gets
MAX_BITS = 4096  # of an integer
CPU_SECONDS = 3.0
CLOCK_STEPS = 256  # between two checks of the processor time
STRING_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "format", "index", "isalnum", "isalpha",
    "isascii", "isdecimal", "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper",
    "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind",
    "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "swapcase", "title", "upper",
})  # fmt: skip
FILTERS = frozenset({
    "abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first",
    "float", "format", "indent", "int", "items", "join", "last", "length", "list", "lower", "map",
    "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "safe", "select",
    "selectattr", "sort", "string", "title", "tojson", "trim", "truncate", "unique", "upper",
    "wordcount",
})  # fmt: skip
GLOBALS = ("range", "dict", "joiner")
# In format strings: wide fields, and widths from arguments.
WIDTHS = re.compile(r"\d{4,}|%[^a-zA-Z%]*\*|\{[^{}]*\{")
TOO_LONG, TOO_LARGE = "it takes too many steps", "it makes a text or a list that is too long"


@dataclass
class Budget:
    """What one rendering may still use."""

    steps: int
    max_chars: int
    deadline: float  # of this thread's processor time


class _WeighedList(list[Any]):
    """A list with its weight: (items, characters), with everything in it."""

    weight: tuple[int, int] = (0, 0)


class _Namespace(Namespace):
    """Jinja's namespace. Values in it are not weighed, so its text does not show them."""

    def __repr__(self) -> str:
        return "<namespace>"


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles one template, and renders it within a budget of steps, characters and time."""

    code_generator_class = BoundedGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(
        self,
        extensions: Sequence[str | type[Extension]] = (),
        filters: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self._running = threading.local()
        functions = {name: JINJAS_FILTERS[name] for name in FILTERS} | dict(filters or {})
        self.filters = {name: self._bounded_filter(name, f) for name, f in functions.items()}
        self.tests = {name: self._counted_test(test) for name, test in JINJAS_TESTS.items()}
        jinjas_globals = self.globals
        self.globals = {name: jinjas_globals[name] for name in GLOBALS}
        self.globals["namespace"] = _Namespace

    def compile_template(self, source: str) -> Template:
        """Compiles the template `source`.

        Raises:
            TemplateError: it is wrong, or too long.
        """
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"it is longer than {MAX_SOURCE} characters")
        try:
            return self.from_string(source)
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise TemplateError("it is nested too deeply") from error

    def render_template(
        self, template: Template, message_count: int, chars: int, **values: Any
    ) -> str:
        """Renders `template` with `values`.

        Args:
            template: the compiled template.
            message_count: how many messages are among the values, for the budget.
            chars: characters of these messages.
            values: by their names in the template.

        Raises:
            TemplateError: it takes too long or becomes too large, or fails in another way.
        """
        self._running.budget = Budget(
            MAX_STEPS + STEPS_A_MESSAGE * message_count,
            MAX_CHARS + CHARS_A_CHAR * chars,
            time.thread_time() + CPU_SECONDS,
        )
        try:
            return template.render(**values)
        except RecursionError as error:
            raise TemplateError("it is nested too deeply") from error
        finally:
            del self._running.budget

    # Methods that compiled templates call.

    def tick(self) -> None:
        """Counts a step."""
        self.spend(1)

    def tick_true(self) -> bool:
        """Counts a step within an expression; always True."""
        self.spend(1)
        return True

    def tick_slice(self, part: Any) -> Any:
        """Counts the step that made the slice `part`."""
        self.spend(1)
        return part

    def spend(self, steps: int) -> None:
        """Takes steps from the budget.

        Raises:
            TemplateError: the steps or the time are used up.
        """
        budget: Budget = self._running.budget
        before, budget.steps = budget.steps, budget.steps - steps
        if budget.steps < 0:
            raise TemplateError(TOO_LONG)
        if before // CLOCK_STEPS != budget.steps // CLOCK_STEPS and (
            time.thread_time() > budget.deadline
        ):
            raise TemplateError(TOO_LONG)

    def require_chars(self, chars: int) -> None:
        """Raises TemplateError if a text of that many characters would be too long."""
        if chars > self._running.budget.max_chars:
            raise TemplateError(TOO_LARGE)

    def concat(self, parts: Iterable[str]) -> str:
        """Joins the parts of an output, while they are not too long. Jinja calls this too."""
        return "".join(self.bounded_parts(parts))

    def bounded_parts(self, parts: Iterable[str]) -> Iterator[str]:
        """The parts of a text, while it is not too long."""
        chars, max_chars = 0, self._running.budget.max_chars
        for part in parts:
            chars += len(part)
            if chars > max_chars:
                raise TemplateError(TOO_LARGE)
            yield part

    def to_text(self, value: Any) -> str:
        """The text of a value that a template prints."""
        return str(value)

    def concat_values(self, parts: Sequence[Any]) -> str:
        """The result of the operator `~`."""
        self.spend(1)
        return self.concat(map(self.to_text, parts))

    def weighed(self, value: Any) -> Any:
        """A new list, tuple or dictionary, if it is not too large."""
        weight = self._weight(value)
        if type(value) is not list:
            return value
        weighed = _WeighedList(value)
        weighed.weight = weight
        return weighed

    def _weight(self, value: Any) -> tuple[int, int]:
        """(items, characters) of a value with everything in it."""
        items, chars, pending = 0, 0, [value]
        max_chars = self._running.budget.max_chars
        while pending:
            item = pending.pop()
            items += 1
            if isinstance(item, str):
                chars += len(item)
            elif isinstance(item, _WeighedList):
                items, chars = items + item.weight[0], chars + item.weight[1]
            elif isinstance(item, list | tuple | KeysView | ValuesView | ItemsView):
                pending += item
            elif isinstance(item, Mapping):
                pending += [*item.keys(), *item.values()]
            if items + len(pending) > MAX_ITEMS or chars > max_chars:
                raise TemplateError(TOO_LARGE)
        self.spend(items)
        return items, chars

    # Hooks of Jinja's sandbox.

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in STRING_METHODS
        if isinstance(obj, bytes | bytearray | int | float):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        formatting = super().wrap_str_format(value)
        if formatting is None:
            return None
        text: str = value.__self__

        def bounded(*args: Any, **kwargs: Any) -> str:
            self._require_format(text, text.count("{"), (args, kwargs))
            return formatting(*args, **kwargs)

        return bounded

    def _require_format(self, text: str, fields: int, arguments: Any) -> None:
        if WIDTHS.search(text):
            raise TemplateError(TOO_LARGE)
        items, chars = self._weight(arguments)
        self.require_chars(len(text) + fields * (1000 + chars + 8 * items))

    def call(
        __self,  # noqa: N805
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        __self.tick()
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            args = __self._bounded_arguments(owner, name, args)
        elif (
            __obj is dict
            or __obj is _Namespace
            or (isinstance(__obj, Macro) and (__obj.catch_varargs or __obj.catch_kwargs))
        ):
            __self._weight((args, kwargs))
        return super().call(__context, __obj, *args, **kwargs)

    def _bounded_arguments(self, text: str, method: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a method of `text`, if its result is not too long."""
        max_chars = self._running.budget.max_chars
        if any(isinstance(arg, int) and abs(arg) > max_chars for arg in args):
            raise TemplateError(TOO_LARGE)
        if method == "replace" and len(args) >= 2 and all(isinstance(a, str) for a in args[:2]):
            self.require_chars(len(text) + text.count(args[0]) * len(args[1]))
        if method == "join" and args:
            return ([*self._bounded_list(args[0], len(text))], *args[1:])
        return args

    def _bounded_list(self, values: Iterable[Any], separator_chars: int = 0) -> list[Any]:
        """The items of `values`, if they can be joined with a separator of that many characters."""
        items = list(islice(values, MAX_ITEMS + 1))
        self.spend(len(items) // 16)
        if len(items) > MAX_ITEMS:
            raise TemplateError(TOO_LARGE)
        if separator_chars or not items or isinstance(items[0], str):
            self.require_chars(sum(len(v) + separator_chars for v in items if isinstance(v, str)))
        return items

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.spend(1)
        if isinstance(left, str) and isinstance(right, str) and operator == "+":
            self.require_chars(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            self._require_format(left, left.count("%"), right)
        elif operator == "*":
            self._require_product(left, right)
        elif operator == "**":
            _require_power(left, right)
        result = super().call_binop(context, operator, left, right)
        return self.weighed(result) if isinstance(result, list | tuple) else result

    def _require_product(self, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            _require_bits(left.bit_length() + right.bit_length())
            return
        for value, count in ((left, right), (right, left)):
            if isinstance(count, int) and isinstance(value, str):
                self.require_chars(len(value) * count)
            elif isinstance(count, int) and isinstance(value, list | tuple):
                items, chars = self._weight(value)
                self.require_chars(chars * count)
                if items * count > MAX_ITEMS:
                    raise TemplateError(TOO_LARGE)

    def _bounded_filter(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The filter `function`, with a check of its input.

        It takes a context, so that Jinja does not compute it while it compiles the template, when
        there is no budget.
        """
        passed = getattr(function, "jinja_pass_arg", None)
        check = getattr(self, f"_check_{name}", None)

        @pass_context
        @wraps(function, updated=())
        def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            self.tick()
            numbers = (*args, *kwargs.values())
            if any(isinstance(n, int) and abs(n) > MAX_ARGUMENT for n in numbers):
                raise TemplateError(TOO_LARGE)
            if name in ("list", "join") and not isinstance(value, str | Mapping | list | tuple):
                value = self._bounded_list(value)
            if check is not None:
                check(value, *args, **kwargs)  # a wrong number of arguments is an error either way
            first = {"context": context, "eval_context": context.eval_ctx, "environment": self}
            lead = () if passed is None else (first[passed.name],)
            return function(*lead, value, *args, **kwargs)

        return bounded

    def _counted_test(self, test: Any) -> Callable[..., Any]:
        """Jinja's test, counted as a step: it can compare texts of any length."""

        @wraps(test)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.spend(1)
            return test(*args, **kwargs)

        return counted

    def _check_replace(self, value: Any, old: Any, new: Any, _: Any = None) -> None:
        text = str(value)
        self.require_chars(len(text) + text.count(str(old)) * len(str(new)))

    def _check_join(self, value: Any, d: Any = "", _: Any = None) -> None:
        if not isinstance(value, Mapping):
            self._bounded_list(value, len(str(d)) + 1)

    def _check_indent(self, s: Any, width: Any = 4, *_: Any, **__: Any) -> None:
        text = str(s)
        size = width if isinstance(width, int) else len(str(width))
        self.require_chars(len(text) + (text.count("\n") + 1) * size)

    def _check_format(self, value: Any, *args: Any, **kwargs: Any) -> None:
        text = str(value)
        self._require_format(text, text.count("%"), (args, kwargs))

    def _check_tojson(self, value: Any, indent: Any = None, **_: Any) -> None:
        items, chars = self._weight(value)
        depth = indent if isinstance(indent, int) else 0
        self.require_chars(6 * chars + items * (8 + 100 * depth))


def _require_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int):
        _require_bits(base.bit_length() * abs(exponent))


def _require_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TemplateError("it computes with a number that is too large")
