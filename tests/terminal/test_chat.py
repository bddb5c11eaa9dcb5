"""A chat with a fake engine: replies, commands, Ctrl-C, and errors that do not end it."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.errors import BusyError
from model.types import Delta, Emit, EngineRequest, FinishReason, Message, Queued
from terminal.chat import TerminalChat
from terminal.console import Console
from terminal.options import RequestDefaults
from terminal.repl import converse
from tests.fake_engine import FakeEngine, echo, fake_manager
from tests.terminal.consoles import errors, make_console, printed


class Keys:
    """Types lines; raises an exception among them. `offered` has the texts offered for editing."""

    def __init__(self, *lines: str | BaseException) -> None:
        self._lines = iter(lines)
        self.offered: list[str] = []

    def __call__(self, prompt: str, text: str) -> str:
        self.offered.append(text)
        line = next(self._lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line


def run_chat(
    *lines: str | BaseException,
    engine: FakeEngine | None = None,
    defaults: RequestDefaults | None = None,
    terminal: bool = False,
) -> tuple[TerminalChat, Console, Keys]:
    """A chat in which these lines were typed."""
    manager = fake_manager(engine or FakeEngine(echo))
    assert manager.wait(20).ready
    console = make_console(terminal=terminal)
    chat, keys = TerminalChat(manager, console, defaults or RequestDefaults()), Keys(*lines)
    converse(chat, keys)
    return chat, console, keys


def turns(chat: TerminalChat) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in chat.turns]


def test_a_reply_is_printed_and_kept() -> None:
    engine = FakeEngine(echo)
    chat, console, _ = run_chat("hello", "and you?", engine=engine)
    assert printed(console) == "base heard: hello \nbase heard: and you? \n"
    assert turns(chat)[1] == ("assistant", "base heard: hello ")
    second = "".join(map(chr, engine.requests[1].prompt_ids))
    assert "hello" in second
    assert "base heard: hello" in second
    assert errors(console) == []


def test_a_terminal_shows_tokens_and_speed_after_a_reply() -> None:
    _, console, _ = run_chat("hello", terminal=True)
    assert "3 tokens · 10.0 tokens/s" in printed(console)


def test_control_characters_of_a_reply_are_not_printed() -> None:
    _, console, _ = run_chat("hello", engine=FakeEngine(lambda *_: ["a\x1b[2J\x07b\x9b\tc\n"]))
    assert printed(console) == "a[2Jb\tc\n"


def test_empty_lines_and_lines_that_are_not_text_are_not_sent() -> None:
    chat, console, _ = run_chat("", "   ", UnicodeDecodeError("utf-8", b"", 0, 1, ""))
    assert chat.turns == ()
    assert errors(console) == ["That was not UTF-8 text."]


def test_ctrl_c_at_the_prompt_drops_the_line() -> None:
    chat, _, keys = run_chat(KeyboardInterrupt(), "hello")
    assert len(chat.turns) == 2
    assert keys.offered == ["", "", ""]


def ctrl_c_after_a_word(prompt: str, request: EngineRequest) -> Iterator[str]:
    """Presses Ctrl-C after the first word of an endless reply."""
    yield "one "
    os.kill(os.getpid(), signal.SIGINT)
    for number in itertools.count():
        yield f"{number} "


def test_ctrl_c_stops_a_reply_and_keeps_its_text() -> None:
    before = signal.getsignal(signal.SIGINT)
    chat, console, keys = run_chat("count", engine=FakeEngine(ctrl_c_after_a_word), terminal=True)
    assert chat.turns[-1].content.startswith("one ")
    assert " · stopped" in printed(console)
    assert keys.offered == ["", ""]
    assert signal.getsignal(signal.SIGINT) is before


def ctrl_c_at_once(prompt: str, request: EngineRequest) -> Iterator[str]:
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        yield ""


def test_ctrl_c_before_the_first_word_offers_the_question_again() -> None:
    chat, console, keys = run_chat("count", engine=FakeEngine(ctrl_c_at_once))
    assert chat.turns == ()
    assert keys.offered == ["", "count"]
    assert errors(console) == ["Stopped."]


class FullEngine(FakeEngine):
    def submit(self, request: EngineRequest, emit: Emit) -> None:
        raise BusyError("queue_full", waiting=256, seconds=5.0)


class FailingEngine(FakeEngine):
    def submit(self, request: EngineRequest, emit: Emit) -> None:
        raise ValueError("unexpected\nerror")


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (FullEngine(echo), "The queue is full: 256 replies are waiting. Try again in about 5 s."),
        (FailingEngine(echo), "Unexpected error: ValueError: unexpected."),
        (FakeEngine(lambda *_: ["<fail>"]), "No reply: There was not enough memory for this"),
        (FakeEngine(lambda *_: []), "The model said nothing."),
        (FakeEngine(echo, context_length=40), "The question alone is "),
    ],
)
def test_an_error_is_one_line_and_the_question_is_offered_again(
    engine: FakeEngine, message: str
) -> None:
    chat, console, keys = run_chat("A question of some length", engine=engine)
    assert chat.turns == ()
    (line,) = errors(console)
    assert line.startswith(message)
    assert keys.offered == ["", "A question of some length"]


def test_a_reply_that_breaks_off_is_kept() -> None:
    chat, console, _ = run_chat("hello", engine=FakeEngine(lambda *_: ["half ", "<fail>"]))
    assert turns(chat)[-1] == ("assistant", "half ")
    assert printed(console) == "half \n"
    assert errors(console)[0].startswith("The reply broke off: ")


def test_dropped_turns_are_reported() -> None:
    _, console, _ = run_chat("long " * 20, "short", engine=FakeEngine(echo, context_length=300))
    assert errors(console) == [
        "The chat had grown too long: its oldest 2 messages were left out of this question."
    ]


class QueueingEngine(FakeEngine):
    def submit(self, request: EngineRequest, emit: Emit) -> None:
        emit(Delta(queued=Queued(2, "slots", 7.4)))
        super().submit(request, emit)


def test_a_waiting_request_shows_its_place_in_the_queue() -> None:
    # The text may come in the same batch as the place in the queue.
    _, console, _ = run_chat("hello", engine=QueueingEngine(echo), terminal=True)
    assert "Waiting: 2 before this one, about 7 s" in "".join(errors(console))


# Commands


def test_adapter_lists_the_adapters_with_descriptions_and_problems() -> None:
    _, console, _ = run_chat("/adapter", defaults=RequestDefaults("pirate"))
    base, linly, pirate, torn = sorted(printed(console).splitlines(), key=lambda line: line[2:])
    assert base.split() == ["base", "fake-base"]
    assert pirate == "* pirate  Talks like a pirate"
    assert linly.startswith("  linly ")
    assert "broken: " in torn


def test_adapter_changes_the_adapter_of_the_next_reply() -> None:
    _, console, _ = run_chat("/adapter pirate", "a", "/adapter base", "b", "/adapter linly",
                       "/adapter none", "c")  # fmt: skip
    replies = [line for line in printed(console).splitlines() if "heard" in line]
    assert replies == ["pirate heard: a ", "base heard: b ", "base heard: c "]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/adapter pirat", "There is no adapter pirat. Did you mean pirate?"),
        ("/adapter xyz", "There is no adapter xyz. /adapter lists them."),
        ("/adapter torn", "The adapter 'torn' is broken: "),
        ("/sytem hello", "There is no command /sytem. Did you mean /system?"),
        ("/home/me/notes", "There is no command /home/me/notes. /help lists them; //home/me"),
        ("/", "There is no command /."),
        ("/save", "/save needs the name of a file."),
        ("/save x.jsonl", "There is nothing to save yet."),
    ],
)
def test_a_failing_command_prints_one_line_and_changes_nothing(line: str, message: str) -> None:
    engine = FakeEngine(echo)
    chat, console, _ = run_chat(line, engine=engine, defaults=RequestDefaults("linly"))
    (error,) = errors(console)
    assert error.startswith(message)
    assert (engine.requests, chat.defaults.adapter) == ([], "linly")


def test_a_line_with_two_slashes_is_sent_with_one() -> None:
    chat, _, _ = run_chat("//help me")
    assert turns(chat)[0] == ("user", "/help me")


def test_system_sets_shows_and_removes_the_system_prompt() -> None:
    engine = FakeEngine(echo)
    _, console, _ = run_chat("/system Be brief", "a", "/system", "/system none", "b", engine=engine)
    with_it, without = ("".join(map(chr, r.prompt_ids)) for r in engine.requests)
    assert "Be brief" in with_it
    assert "Be brief" not in without
    assert "Be brief\n" in printed(console)


def test_reset_begins_a_new_chat_and_quit_ends_it() -> None:
    chat, _, keys = run_chat("a", "/reset", "b", "/quit", "c")
    assert [text for _, text in turns(chat)] == ["b", "base heard: b "]
    assert len(keys.offered) == 4


def test_help_names_every_command() -> None:
    _, console, _ = run_chat("/help")
    for word in ("/adapter", "/system", "/save", "/reset", "/help", "/quit", "//", "Ctrl-C"):
        assert word in printed(console)


def test_save_appends_chats_in_the_format_of_training_data(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    _, console, _ = run_chat(
        "/system Brief", "你好", f"/save {path}", "/reset", "b", f"/save {path}"
    )
    assert f"Saved as chat 2 of {path}." in printed(console)
    rows = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    assert [row["role"] for row in rows[0]] == ["system", "user", "assistant"]
    assert rows[1][1]["content"] == "b"
    assert "你好" in path.read_text()


def test_save_adds_a_missing_line_end(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": []}')
    run_chat("a", f"/save {path}")
    assert [set(json.loads(line)) for line in path.read_text().splitlines()] == [{"messages"}] * 2


@pytest.mark.parametrize("content", [b"notes", b'{"prompt": 1}\n', b"\xff\xfe", b'"messages"\n'])
def test_save_does_not_write_to_other_files(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    _, console, _ = run_chat("a", f"/save {path}")
    assert errors(console) == [
        f"{path} already contains something other than chats. Choose another file."
    ]
    assert path.read_bytes() == content


@pytest.mark.parametrize("place", ["", "nowhere/chats.jsonl"])
def test_save_reports_a_path_that_cannot_be_written(place: str, tmp_path: Path) -> None:
    _, console, _ = run_chat("a", f"/save {tmp_path / place}")
    (line,) = errors(console)
    assert "cannot be written: " in line


def test_bytes_that_are_not_utf8_become_question_marks() -> None:
    chat, _, _ = run_chat("a\udce4b")
    assert chat.turns[0] == Message("user", "a?b")


def test_a_reply_at_the_token_limit_says_that_it_was_cut_off() -> None:
    class LimitedEngine(FakeEngine):
        def submit(self, request: EngineRequest, emit: Emit) -> None:
            def cut(delta: Delta) -> None:
                reason = FinishReason.LENGTH if delta.finish_reason else None
                emit(Delta(delta.text, reason, delta.stats))

            super().submit(request, cut)

    _, console, _ = run_chat("hello", engine=LimitedEngine(echo), terminal=True)
    assert " · cut off at the longest reply" in printed(console)
