"""Jinja environment for chat templates of strangers: bounded in steps, in time and in size.

Jinja's own sandbox keeps a template from reaching Python, and lets it run for ever or fill the
memory. Here each block that is entered is counted (a body of a loop, a macro, a branch), what can
make a value larger than its parts asks first, and what no chat template needs is left out: padding
methods, filters that lay out text. Nothing is killed and no clock decides, except for a bound on
the processor's time that no sane template comes near.

A list, a tuple or a dictionary is weighed when it is made, with all that is in it, so that no value
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
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes, pass_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import FILTERS as JINJAS_FILTERS
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS as JINJAS_TESTS
from jinja2.utils import Namespace

MAX_SOURCE = 100_000  # characters; the longest that is known has 30,000
MAX_STEPS = 1_000_000  # blocks that are entered
STEPS_A_MESSAGE = 1000
MAX_CHARS = 1_000_000  # of a value, and of what is written
CHARS_A_CHAR = 8  # more for each character of the messages
MAX_ITEMS = 100_000  # of a list, with all that is in it; also the bound of the sandbox's range
MAX_ARGUMENT = 10_000  # a number that a filter or a method is given
MAX_BITS = 4096  # of an integer
CPU_SECONDS = 3.0
CLOCK_STEPS = 256  # between two looks at the clock
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
WIDTHS = re.compile(r"\d{4,}|%[^a-zA-Z%]*\*|\{[^{}]*\{")  # wide fields, and widths from arguments
TOO_LONG, TOO_LARGE = "it takes too many steps", "it makes a text or a list that is too long"


@dataclass
class Budget:
    """What is left to one rendering."""

    steps: int
    max_chars: int
    deadline: float  # of this thread's processor time


class _HeldList(list[Any]):
    """A list that was weighed: (items, characters) with all that is in it."""

    weight: tuple[int, int] = (0, 0)


class _Namespace(Namespace):
    """Jinja's, which holds others without being weighed, so its text does not show them."""

    def __repr__(self) -> str:
        return "<namespace>"


class _CountingGenerator(CodeGenerator):
    """Writes calls of the environment where Jinja's would let a template go on or grow unseen."""

    def blockvisit(self, nodes: Iterable[nodes.Node], frame: Frame) -> None:
        self.writeline("environment.tick()")
        super().blockvisit(nodes, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        self.write("(environment.ticked() and ")
        super().visit_Compare(node, frame)
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.sliced(")
        super().visit_Getitem(node, frame)
        self.write(")")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:  # noqa: N802
        self._held(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:  # noqa: N802
        self._held(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:  # noqa: N802
        if node.ctx == "load":
            self._held(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _held(self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.held(")
        visit(node, frame)
        self.write(")")


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Compiles one template, and renders it within a budget."""

    code_generator_class = _CountingGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        self._running = threading.local()
        self.filters = {name: self._bounded(name) for name in FILTERS}
        self.tests = {name: self._counted(test) for name, test in JINJAS_TESTS.items()}
        known = self.globals
        self.globals = {name: known[name] for name in GLOBALS}
        self.globals |= {"namespace": _Namespace, "raise_exception": _raise}

    def compiled(self, source: str) -> Template:
        """The template `source`.

        Raises:
            TemplateError: it cannot be read, or is too long.
        """
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"it is longer than {MAX_SOURCE} characters")
        try:
            return self.from_string(source)
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise TemplateError("it is nested too deeply") from error

    def written(
        self, template: Template, messages: Sequence[Mapping[str, str]], **values: Any
    ) -> str:
        """What `template` makes of `messages`.

        Raises:
            TemplateError: it takes too long or grows too large, or any other error in it.
        """
        size = sum(len(message["content"]) for message in messages)
        self._running.budget = Budget(
            MAX_STEPS + STEPS_A_MESSAGE * len(messages),
            MAX_CHARS + CHARS_A_CHAR * size,
            time.thread_time() + CPU_SECONDS,
        )
        try:
            return template.render(messages=messages, **values)
        except RecursionError as error:
            raise TemplateError("it is nested too deeply") from error
        finally:
            del self._running.budget

    # What compiled templates call.

    def tick(self) -> None:
        """One more block."""
        self.spend(1)

    def ticked(self) -> bool:
        self.spend(1)
        return True

    def sliced(self, part: Any) -> Any:
        self.spend(1)
        return part

    def spend(self, steps: int) -> None:
        budget: Budget = self._running.budget
        before, budget.steps = budget.steps, budget.steps - steps
        if budget.steps < 0:
            raise TemplateError(TOO_LONG)
        if before // CLOCK_STEPS != budget.steps // CLOCK_STEPS and (
            time.thread_time() > budget.deadline
        ):
            raise TemplateError(TOO_LONG)

    def require(self, chars: int) -> None:
        """Whether a text of that many characters may be made."""
        if chars > self._running.budget.max_chars:
            raise TemplateError(TOO_LARGE)

    def concat(self, parts: Iterable[str]) -> str:
        """All that is written, put together while it is not too much."""
        kept, size, most = [], 0, self._running.budget.max_chars
        for part in parts:
            size += len(part)
            if size > most:
                raise TemplateError(TOO_LARGE)
            kept.append(part)
        return "".join(kept)

    def joined(self, parts: Sequence[Any]) -> str:
        self.spend(1)
        return self.concat(map(str, parts))

    def held(self, made: Any) -> Any:
        """A list, tuple or dictionary, weighed."""
        weight = self._weight(made)
        if type(made) is not list:
            return made
        held = _HeldList(made)
        held.weight = weight
        return held

    def _weight(self, value: Any) -> tuple[int, int]:
        """(items, characters) of a value with all that is in it."""
        items, chars, left = 0, 0, [value]
        most = self._running.budget.max_chars
        while left:
            one = left.pop()
            items += 1
            if isinstance(one, str):
                chars += len(one)
            elif isinstance(one, _HeldList):
                items, chars = items + one.weight[0], chars + one.weight[1]
            elif isinstance(one, list | tuple | KeysView | ValuesView | ItemsView):
                left += one
            elif isinstance(one, Mapping):
                left += [*one.keys(), *one.values()]
            if items + len(left) > MAX_ITEMS or chars > most:
                raise TemplateError(TOO_LARGE)
        self.spend(items)
        return items, chars

    # What Jinja's sandbox asks.

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
        self.require(len(text) + fields * (1000 + chars + 8 * items))

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
        """The arguments of a method of `text` whose result is not too long."""
        if any(isinstance(one, int) and abs(one) > self._running.budget.max_chars for one in args):
            raise TemplateError(TOO_LARGE)
        if method == "replace" and len(args) >= 2 and all(isinstance(a, str) for a in args[:2]):
            self.require(len(text) + text.count(args[0]) * len(args[1]))
        if method == "join" and args:
            return ([*self._listed(args[0], len(text))], *args[1:])
        return args

    def _listed(self, values: Iterable[Any], between: int = 0) -> list[Any]:
        """What `values` gives, if it can be put together with that many characters in between."""
        listed = list(islice(values, MAX_ITEMS + 1))
        self.spend(len(listed) // 16)
        if len(listed) > MAX_ITEMS:
            raise TemplateError(TOO_LARGE)
        if between or not listed or isinstance(listed[0], str):
            self.require(sum(len(v) + between for v in listed if isinstance(v, str)))
        return listed

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self.spend(1)
        if isinstance(left, str) and isinstance(right, str) and operator == "+":
            self.require(len(left) + len(right))
        elif operator == "%" and isinstance(left, str):
            self._require_format(left, left.count("%"), right)
        elif operator == "*":
            self._require_product(left, right)
        elif operator == "**":
            _require_power(left, right)
        result = super().call_binop(context, operator, left, right)
        return self.held(result) if isinstance(result, list | tuple) else result

    def _require_product(self, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            _require_bits(left.bit_length() + right.bit_length())
            return
        for one, count in ((left, right), (right, left)):
            if isinstance(count, int) and isinstance(one, str):
                self.require(len(one) * count)
            elif isinstance(count, int) and isinstance(one, list | tuple):
                items, chars = self._weight(one)
                self.require(chars * count)
                if items * count > MAX_ITEMS:
                    raise TemplateError(TOO_LARGE)

    def _bounded(self, name: str) -> Callable[..., Any]:
        """Jinja's filter of that name, which asks first. With a context it is not computed while
        the template is compiled, where there is no budget."""
        known = JINJAS_FILTERS[name]
        passed = getattr(known, "jinja_pass_arg", None)
        check = getattr(self, f"_check_{name}", None)

        @pass_context
        @wraps(known, updated=())
        def bounded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
            self.tick()
            numbers = (*args, *kwargs.values())
            if any(isinstance(n, int) and abs(n) > MAX_ARGUMENT for n in numbers):
                raise TemplateError(TOO_LARGE)
            if name in ("list", "join") and not isinstance(value, str | Mapping | list | tuple):
                value = self._listed(value)
            if check is not None:
                check(value, *args, **kwargs)  # a wrong number of arguments is an error either way
            first = {"context": context, "eval_context": context.eval_ctx, "environment": self}
            lead = () if passed is None else (first[passed.name],)
            return known(*lead, value, *args, **kwargs)

        return bounded

    def _counted(self, test: Any) -> Callable[..., Any]:
        """Jinja's test, which may compare texts of any length."""

        @wraps(test)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.spend(1)
            return test(*args, **kwargs)

        return counted

    def _check_replace(self, value: Any, old: Any, new: Any, _: Any = None) -> None:
        text = str(value)
        self.require(len(text) + text.count(str(old)) * len(str(new)))

    def _check_join(self, value: Any, d: Any = "", _: Any = None) -> None:
        if not isinstance(value, Mapping):
            self._listed(value, len(str(d)) + 1)

    def _check_indent(self, s: Any, width: Any = 4, *_: Any, **__: Any) -> None:
        text = str(s)
        size = width if isinstance(width, int) else len(str(width))
        self.require(len(text) + (text.count("\n") + 1) * size)

    def _check_format(self, value: Any, *args: Any, **kwargs: Any) -> None:
        text = str(value)
        self._require_format(text, text.count("%"), (args, kwargs))

    def _check_tojson(self, value: Any, indent: Any = None) -> None:
        items, chars = self._weight(value)
        depth = indent if isinstance(indent, int) else 0
        self.require(6 * chars + items * (8 + 100 * depth))


def _require_power(base: Any, exponent: Any) -> None:
    if isinstance(base, int) and isinstance(exponent, int):
        _require_bits(base.bit_length() * abs(exponent))


def _require_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise TemplateError("it computes with a number that is too large")


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
