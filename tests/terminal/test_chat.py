"""A chat over a fake engine: replies, commands, Ctrl-C, and trouble that does not end it."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.translations import verbatim
from model.types import (
    BusyError,
    Delta,
    Emit,
    EngineRequest,
    FinishReason,
    Message,
    Queued,
)
from terminal.chat import TerminalChat
from terminal.options import RequestDefaults
from terminal.repl import converse
from terminal.screen import Console
from tests.fake import FakeEngine, echo, fake_manager
from tests.terminal.consoles import complaints, printed, screen


class Keys:
    """Lines as they are typed; an exception among them is raised. Remembers what was offered."""

    def __init__(self, *lines: str | BaseException) -> None:
        self._lines = iter(lines)
        self.offered: list[str] = []

    def __call__(self, prompt: str, typed: str) -> str:
        self.offered.append(typed)
        line = next(self._lines, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line


def talk(
    *lines: str | BaseException,
    engine: FakeEngine | None = None,
    wishes: RequestDefaults | None = None,
    terminal: bool = False,
) -> tuple[TerminalChat, Console, Keys]:
    """A chat in which these lines were typed."""
    manager = fake_manager(engine or FakeEngine(echo))
    assert manager.wait(20).ready
    chat, keys = (
        TerminalChat(manager, screen(terminal=terminal), wishes or RequestDefaults()),
        Keys(*lines),
    )
    converse(chat, keys)
    return chat, chat.screen, keys


def said(chat: TerminalChat) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in chat.turns]


def test_a_reply_is_printed_and_kept() -> None:
    engine = FakeEngine(echo)
    chat, shown, _ = talk("hello", "and you?", engine=engine)
    assert printed(shown) == "base heard: hello \nbase heard: and you? \n"
    assert said(chat)[1] == ("assistant", "base heard: hello ")
    second = "".join(map(chr, engine.requests[1].prompt_ids))
    assert "hello" in second
    assert "base heard: hello" in second
    assert complaints(shown) == []


def test_a_terminal_gets_the_facts() -> None:
    _, shown, _ = talk("hello", terminal=True)
    assert "3 tokens · 10.0 tokens/s" in printed(shown)


def test_letters_that_command_a_terminal_are_not_printed() -> None:
    _, shown, _ = talk("hello", engine=FakeEngine(lambda *_: ["a\x1b[2J\x07b\x9b\tc\n"]))
    assert printed(shown) == "a[2Jb\tc\n"


def test_nothing_and_spaces_ask_nothing() -> None:
    chat, shown, _ = talk("", "   ", UnicodeDecodeError("utf-8", b"", 0, 1, ""))
    assert chat.turns == ()
    assert complaints(shown) == ["That was not UTF-8 text."]


def test_ctrl_c_at_the_prompt_drops_the_line() -> None:
    chat, _, keys = talk(KeyboardInterrupt(), "hello")
    assert len(chat.turns) == 2
    assert keys.offered == ["", "", ""]


def interrupted(prompt: str, request: EngineRequest) -> Iterator[str]:
    """Presses Ctrl-C behind the first word, and would go on for ever."""
    yield "one "
    os.kill(os.getpid(), signal.SIGINT)
    for number in itertools.count():
        yield f"{number} "


def test_ctrl_c_stops_the_reply_and_keeps_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    chat, shown, keys = talk("count", engine=FakeEngine(interrupted), terminal=True)
    assert chat.turns[-1].content.startswith("one ")
    assert " · stopped" in printed(shown)
    assert keys.offered == ["", ""]
    assert signal.getsignal(signal.SIGINT) is before


def at_once(prompt: str, request: EngineRequest) -> Iterator[str]:
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        yield ""


def test_ctrl_c_before_the_first_word_gives_the_question_back() -> None:
    chat, shown, keys = talk("count", engine=FakeEngine(at_once))
    assert chat.turns == ()
    assert keys.offered == ["", "count"]
    assert complaints(shown) == ["Stopped."]


class Full(FakeEngine):
    def submit(self, request: EngineRequest, emit: Emit) -> None:
        raise BusyError(verbatim("256 replies are waiting already", "Try again in about 5 s."))


class Surprising(FakeEngine):
    def submit(self, request: EngineRequest, emit: Emit) -> None:
        raise ValueError("nobody\nexpected this")


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (Full(echo), "256 replies are waiting already. Try again in about 5 s."),
        (Surprising(echo), "This went wrong: ValueError: nobody."),
        (FakeEngine(lambda *_: ["<fail>"]), "No reply: There was not enough memory for this"),
        (FakeEngine(lambda *_: []), "The model said nothing."),
        (FakeEngine(echo, context_length=40), "The question alone is "),
    ],
)
def test_trouble_is_a_sentence_and_the_question_is_there_again(
    engine: FakeEngine, says: str
) -> None:
    chat, shown, keys = talk("A question of some length", engine=engine)
    assert chat.turns == ()
    (line,) = complaints(shown)
    assert line.startswith(says)
    assert keys.offered == ["", "A question of some length"]


def test_a_reply_that_breaks_off_stays() -> None:
    chat, shown, _ = talk("hello", engine=FakeEngine(lambda *_: ["half ", "<fail>"]))
    assert said(chat)[-1] == ("assistant", "half ")
    assert printed(shown) == "half \n"
    assert complaints(shown)[0].startswith("The reply broke off: ")


def test_old_turns_that_are_dropped_are_told() -> None:
    _, shown, _ = talk("long " * 20, "short", engine=FakeEngine(echo, context_length=300))
    assert complaints(shown) == [
        "The chat had grown too long: its oldest 2 messages were left out of this question."
    ]


class Crowded(FakeEngine):
    def submit(self, request: EngineRequest, emit: Emit) -> None:
        emit(Delta(queued=Queued(2, "slots", 7.4)))
        super().submit(request, emit)


def test_who_waits_is_told_so() -> None:
    # Both Deltas of a burst would be one: the words may come with the place in the queue.
    _, shown, _ = talk("hello", engine=Crowded(echo), terminal=True)
    assert "Waiting: 2 before this one, about 7 s" in "".join(complaints(shown))


# Commands


def test_adapters_are_listed_with_their_verdicts() -> None:
    _, shown, _ = talk("/adapter", wishes=RequestDefaults("pirate"))
    base, linly, pirate, torn = sorted(printed(shown).splitlines(), key=lambda line: line[2:])
    assert base.split() == ["base", "fake-base"]
    assert pirate == "* pirate  Talks like a pirate"
    assert linly.startswith("  linly ")
    assert "broken: " in torn


def test_adapters_change_for_the_next_reply() -> None:
    _, shown, _ = talk("/adapter pirate", "a", "/adapter base", "b", "/adapter linly",
                       "/adapter none", "c")  # fmt: skip
    heard = [line for line in printed(shown).splitlines() if "heard" in line]
    assert heard == ["pirate heard: a ", "base heard: b ", "base heard: c "]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/adapter pirat", "There is no adapter pirat. Did you mean pirate?"),
        ("/adapter xyz", "There is no adapter xyz. /adapter lists them."),
        ("/adapter torn", "The adapter 'torn' is broken: "),
        ("/sytem hello", "There is no command /sytem. Did you mean /system?"),
        ("/home/me/notes", "There is no command /home/me/notes. /help lists them; //home/me"),
        ("/", "There is no command /."),
        ("/save", "/save needs a file."),
        ("/save x.jsonl", "There is nothing to save yet."),
    ],
)
def test_a_command_that_cannot_be_done_is_one_sentence(line: str, says: str) -> None:
    engine = FakeEngine(echo)
    chat, shown, _ = talk(line, engine=engine, wishes=RequestDefaults("linly"))
    (complaint,) = complaints(shown)
    assert complaint.startswith(says)
    assert (engine.requests, chat.defaults.adapter) == ([], "linly")


def test_two_slashes_send_one() -> None:
    chat, _, _ = talk("//help me")
    assert said(chat)[0] == ("user", "/help me")


def test_the_system_prompt() -> None:
    engine = FakeEngine(echo)
    _, shown, _ = talk("/system Be brief", "a", "/system", "/system none", "b", engine=engine)
    with_it, without = ("".join(map(chr, r.prompt_ids)) for r in engine.requests)
    assert "Be brief" in with_it
    assert "Be brief" not in without
    assert "Be brief\n" in printed(shown)


def test_reset_begins_anew_and_quit_ends() -> None:
    chat, _, keys = talk("a", "/reset", "b", "/quit", "c")
    assert [text for _, text in said(chat)] == ["b", "base heard: b "]
    assert len(keys.offered) == 4


def test_help_names_every_command() -> None:
    _, shown, _ = talk("/help")
    for word in ("/adapter", "/system", "/save", "/reset", "/help", "/quit", "//", "Ctrl-C"):
        assert word in printed(shown)


def test_what_is_saved_can_be_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    _, shown, _ = talk("/system Brief", "你好", f"/save {path}", "/reset", "b", f"/save {path}")
    assert f"Saved as chat 2 of {path}." in printed(shown)
    rows = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    assert [row["role"] for row in rows[0]] == ["system", "user", "assistant"]
    assert rows[1][1]["content"] == "b"
    assert "你好" in path.read_text()


def test_a_missing_line_end_is_put_in(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": []}')
    talk("a", f"/save {path}")
    assert [set(json.loads(line)) for line in path.read_text().splitlines()] == [{"messages"}] * 2


@pytest.mark.parametrize("content", [b"notes", b'{"prompt": 1}\n', b"\xff\xfe", b'"messages"\n'])
def test_other_files_are_never_written_to(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    _, shown, _ = talk("a", f"/save {path}")
    assert complaints(shown) == [f"{path} holds something else than chats. Name another file."]
    assert path.read_bytes() == content


@pytest.mark.parametrize("place", ["", "nowhere/chats.jsonl"])
def test_a_place_that_cannot_be_written_is_one_sentence(place: str, tmp_path: Path) -> None:
    _, shown, _ = talk("a", f"/save {tmp_path / place}")
    (line,) = complaints(shown)
    assert "cannot be written: " in line


def test_half_characters_become_question_marks() -> None:
    chat, _, _ = talk("a\udce4b")
    assert chat.turns[0] == Message("user", "a?b")


def test_a_reply_says_why_it_was_cut_off() -> None:
    class Short(FakeEngine):
        def submit(self, request: EngineRequest, emit: Emit) -> None:
            def cut(delta: Delta) -> None:
                reason = FinishReason.LENGTH if delta.finish_reason else None
                emit(Delta(delta.text, reason, delta.stats))

            super().submit(request, cut)

    _, shown, _ = talk("hello", engine=Short(echo), terminal=True)
    assert " · cut off at the longest reply" in printed(shown)
