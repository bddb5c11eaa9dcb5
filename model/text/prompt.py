"""The only renderer: messages and a template to token ids, for replies and for training.

A template is Jinja, as transformers' chat templates are; the project's own lie in `prompts/` as
TOML. What people and models said is carried through the template between markers, so that the
tokenizer can tell it from the template's own text: a typed `<|im_end|>` stays text.

A template is a program by the model's author: `template_sandbox` bounds it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from jinja2 import Template, TemplateError

from model.bounded_files import read_text
from model.display import clean_description
from model.errors import LinlyError, PromptTooLongError, RequestError, SettingsError
from model.text.template_sandbox import BoundedEnvironment
from model.text.tokenizer import CONTEXT_TOKENS, REPLACEMENT, TextSpan, Tokenizer
from model.translations import LocalizedText
from model.types import Message, TruncatedTurns

# Unicode noncharacters: never part of text that is exchanged, so nobody's text is lost with them.
SAID, REPLIED, END = "\ufdd0", "\ufdd1", "\ufdd2"
THINK = re.compile("(</?think>)")
MARKER = re.compile(f"([{SAID}{REPLIED}{END}])")
PARTS = re.compile(r"\{instruction\}|\{input\}")
NO_MARKERS = str.maketrans("", "", SAID + REPLIED + END)
# Stand in for what comes before a text, to see its ids in the middle of one; one will not merge.
ANCHORS = tuple([TextSpan(text, control=False)] for text in ("\n", "a", "."))


@dataclass(frozen=True)
class PromptTemplate:
    """A way to write a chat down for a model.

    `source` is Jinja over `messages`, `add_generation_prompt`, `bos_token` and `eos_token`; a
    reply ends at any of the strings `stop`. `input_user` and `input_system` are for data whose
    instructions come with an input.
    """

    name: str
    source: str
    description: str = ""
    stop: tuple[str, ...] = ()
    input_user: str = "{instruction}\n{input}"
    input_system: str = ""

    def with_input(self, instruction: str, given: str) -> tuple[str, str]:
        """The system prompt ("" for none) and the question that bring an input."""
        parts = {"{instruction}": instruction, "{input}": given}
        return self.input_system, PARTS.sub(lambda m: parts[m.group()], self.input_user)

    @cached_property
    def _compiled(self) -> tuple[BoundedEnvironment, Template]:
        environment = BoundedEnvironment()
        return environment, environment.compiled(self.source)

    def render(
        self, messages: Sequence[Message], tokenizer: Tokenizer, reply_follows: bool = True
    ) -> list[TextSpan]:
        """The chat as runs of text; with `reply_follows` it ends where the reply begins.

        Raises:
            RequestError: the template cannot write these messages.
        """
        try:
            environment, template = self._compiled
            text = environment.written(
                template,
                [_marked(message) for message in messages],
                add_generation_prompt=reply_follows,
                bos_token=tokenizer.bos or "",
                eos_token=tokenizer.eos or "",
            )
            text.encode()  # "\ud800" in a template is half a character
        except Exception as error:  # a template is a program: it fails in any way
            raise RequestError(
                "template_cannot_render",
                name=self.name,
                error=error,
            ) from error
        return _unmarked(text)


def _marked(message: Message) -> dict[str, str]:
    """The message for a template. Outer space stays outside, where `trim` can reach it."""
    text = message.content.translate(NO_MARKERS)
    core = text.strip()
    lead, _, trail = text.partition(core) if core else (text, "", "")
    if message.role != "assistant":
        return {"role": message.role, "content": f"{lead}{SAID}{core}{END}{trail}"}
    # Templates cut replies at these, so they stay outside of the markers.
    parts = [p if THINK.fullmatch(p) else f"{REPLIED}{p}{END}" for p in THINK.split(core) if p]
    return {"role": message.role, "content": f"{lead}{''.join(parts)}{trail}"}


def _unmarked(text: str) -> list[TextSpan]:
    """Runs by their markers.

    Where a template has cut a message, one of its two markers is gone. All text up to the next
    one then counts as said: better a piece of template too much than a control token typed.
    """
    pieces = MARKER.split(text)
    runs: list[TextSpan] = []
    before = ""
    for piece, behind in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
        said = before in (SAID, REPLIED) or behind == END
        runs.append(TextSpan(piece, control=not said, reply=before == REPLIED))
        before = behind
    return [run for run in runs if run.text]


def load_templates(folder: Path) -> dict[str, PromptTemplate]:
    """The templates `<name>.toml` of a folder by name.

    Raises:
        SettingsError: one of them cannot be read.
    """
    return {path.stem: _read_template(path) for path in sorted(folder.glob("*.toml"))}


def _read_template(path: Path) -> PromptTemplate:
    try:
        data = tomllib.loads(read_text(path))
        given = data.get("with_input", {})
        template = PromptTemplate(
            path.stem, data["template"], clean_description(data.get("description")),
            tuple(data.get("stop", ())),
            **{f"input_{role}": str(text) for role, text in given.items()},
        )  # fmt: skip
        stop = data.get("stop", [])
        if not isinstance(stop, list) or not all(isinstance(s, str) and s for s in stop):
            raise ValueError("stop must be a list of strings")
        _ = template._compiled
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError,
            TemplateError) as error:  # fmt: skip
        raise SettingsError("template_unreadable", path=path, error=error) from error
    return template


@dataclass(frozen=True)
class Prompt:
    """Token ids to continue, and what was left out to make them fit."""

    ids: tuple[int, ...]
    dropped: TruncatedTurns | None = None


def encode_chat(
    messages: Sequence[Message],
    template: PromptTemplate,
    tokenizer: Tokenizer,
    room: int,
    drop_oldest: bool = False,
    so_far: str = "",
) -> Prompt:
    """Render a chat into at most `room` tokens, up to where its reply begins and `so_far`.

    With `drop_oldest`, whole turns go, oldest first; never the system prompt, the last message or
    `so_far`. The ids of `so_far` are those that the model would have chosen for it, except where
    it wrote the same text in other tokens than the tokenizer does.

    Raises:
        PromptTooLongError: it does not fit, or even the question alone does not.
    """
    said = so_far.translate(NO_MARKERS)

    def ids_of(kept: Sequence[Message]) -> list[int]:
        return _begun(template.render(kept, tokenizer), said, tokenizer)

    fitted = _fitted(messages, ids_of, _later_questions(messages), room, drop_oldest)
    if fitted is None:
        last = [*_system(messages), messages[-1]]
        question = len(tokenizer.encode(template.render(last, tokenizer)))
        if question > room:
            raise _too_long("question_alone", question, room)
        raise _too_long("question_and_reply", len(ids_of(last)), room)
    return fitted


def encode_without_generation_prompt(
    messages: Sequence[Message],
    template: PromptTemplate,
    tokenizer: Tokenizer,
    room: int,
    drop_oldest: bool = False,
) -> Prompt:
    """Render a chat that nobody has to answer, so up to its last reply: the next prompt's begin.

    With `drop_oldest`, whole turns go, as they would for the next question: the last one too.

    Raises:
        PromptTooLongError: it does not fit, or even the system prompt alone does not.
    """

    def ids_of(kept: Sequence[Message]) -> list[int]:
        return tokenizer.encode(template.render(kept, tokenizer, False)) if kept else []

    starts = [*_later_questions(messages), len(messages)]
    fitted = _fitted(messages, ids_of, starts, room, drop_oldest)
    if fitted is None:
        raise _too_long("system_prompt_alone", len(ids_of(_system(messages))), room)
    return fitted


def _fitted(
    messages: Sequence[Message],
    ids_of: Callable[[Sequence[Message]], list[int]],
    starts: Sequence[int],
    room: int,
    drop_oldest: bool,
) -> Prompt | None:
    """As much of a chat as fits: all of it, else from one of `starts` on; None if nothing does.

    Raises:
        PromptTooLongError: not all of it fits, and `drop_oldest` is not set.
    """
    whole = ids_of(messages)
    if len(whole) <= room:
        return Prompt(tuple(whole))
    if not drop_oldest:
        raise _too_long("whole_chat", len(whole), room)
    system = _system(messages)
    found = _earliest(starts, lambda start: ids_of([*system, *messages[start:]]), room)
    if found is None:
        return None
    start, ids = found
    return Prompt(tuple(ids), TruncatedTurns(start - len(system), len(whole) - len(ids)))


def _earliest(
    starts: Sequence[int], ids_from: Callable[[int], list[int]], room: int
) -> tuple[int, list[int]] | None:
    """The earliest of `starts` from which on the chat fits, and its ids; None if none fits.

    Takes it that a chat grows with its turns. Where a template breaks that, the answer fits all
    the same and the start before it does not, but one far before it may. Goes back from the end
    in steps that double, then halves: the number of encodings is logarithmic, and of a long chat
    little more than what fits is encoded. The last start is tried last, as some templates cannot
    write a system prompt alone.
    """
    found: list[int] | None = None
    low, high, step = 0, len(starts) - 1, 1
    while low < high:  # before `low` nothing fits; from `high` on it does, unless that is the last
        middle = max(high - step, (low + high) // 2)
        ids = ids_from(starts[middle])
        if len(ids) <= room:
            found, high, step = ids, middle, step * 2
        else:
            low = middle + 1
    if found is None and starts:
        found = ids_from(starts[high])
    return (starts[high], found) if found is not None and len(found) <= room else None


def _system(messages: Sequence[Message]) -> list[Message]:
    """The system prompt, if there is one."""
    return [message for message in messages[:1] if message.role == "system"]


def _later_questions(messages: Sequence[Message]) -> list[int]:
    """Where a shortened chat may begin: at a user's message behind the first one."""
    first = len(_system(messages))
    return [i for i in range(first + 1, len(messages)) if messages[i].role == "user"]


def _begun(header: list[TextSpan], so_far: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of `header` and of the reply's beginning behind them.

    A model wrote the reply behind the header's own ids. Encoding both as one text may merge the
    two where they meet; encoding the reply alone puts SentencePiece's space before it. So what
    counts is whether these ids, behind the header's, are read as this text.
    """
    ids = tokenizer.encode(header)
    if not so_far:
        return ids
    said = TextSpan(so_far, control=False, reply=True)
    other: list[int] | None = None
    for before in (header, *ANCHORS):
        rest = _behind(before, said, tokenizer)
        if rest is not None and decode_continuation(ids, rest, tokenizer) == so_far:
            return [*ids, *rest]
        other = rest if other is None else other
    # The tokenizer writes some of this text otherwise, as NFKC does.
    return tokenizer.encode([*header, said]) if other is None else [*ids, *other]


def _behind(before: list[TextSpan], said: TextSpan, tokenizer: Tokenizer) -> list[int] | None:
    """The ids of `said` where it follows `before`; None if a token reaches over both."""
    ids, both = tokenizer.encode(before), tokenizer.encode([*before, said])
    return both[len(ids) :] if both[: len(ids)] == ids else None


def decode_continuation(before: Sequence[int], ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of `ids` as it reads behind `before`."""
    context = decode_context(before, tokenizer)
    return tokenizer.decode([*context, *ids])[len(tokenizer.decode(context)) :]


def decode_context(ids: Sequence[int], tokenizer: Tokenizer) -> Sequence[int]:
    """The last few of `ids`, beginning with a whole character where they can.

    Some decoders read bytes one by one all along where a character among them is torn.
    """
    few = ids[-CONTEXT_TOKENS:]
    for start in range(len(few)):
        if not tokenizer.decode(few[start:]).startswith(REPLACEMENT):
            return few[start:]
    return few


def _too_long(what: str, tokens: int, room: int) -> LinlyError:
    return PromptTooLongError(
        "text_too_long_for_context",
        what=LocalizedText(what),
        tokens=tokens,
        room=room,
    )


def encode_training(
    messages: Sequence[Message], template: PromptTemplate, tokenizer: Tokenizer
) -> tuple[list[int], list[bool]]:
    """A chat with its replies as token ids, and which of them are to be learned.

    Learned are the replies and the token that ends each: the template's own, where a control
    token follows the reply, else the tokenizer's eos, which is then put in.
    """
    ids: list[int] = []
    learned: list[bool] = []
    after_reply = False
    for is_reply, runs in _segments(template.render(messages, tokenizer, reply_follows=False)):
        new = tokenizer.encode(runs)
        ended = after_reply and bool(new) and tokenizer.is_control(new[0])
        if after_reply and not ended:
            ids += _eos(tokenizer)
            learned += [True] * len(_eos(tokenizer))
        ids += new
        learned += [is_reply or (ended and i == 0) for i in range(len(new))]
        after_reply = is_reply
    if after_reply:
        ids += _eos(tokenizer)
        learned += [True] * len(_eos(tokenizer))
    return ids, learned


def _segments(runs: Sequence[TextSpan]) -> list[tuple[bool, list[TextSpan]]]:
    """Runs grouped into replies and what stands between them."""
    return [(reply, list(group)) for reply, group in groupby(runs, key=lambda run: run.reply)]


def _eos(tokenizer: Tokenizer) -> list[int]:
    return [] if tokenizer.eos_id is None else [tokenizer.eos_id]
