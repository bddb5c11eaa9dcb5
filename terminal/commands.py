"""Commands of the chat: lines that begin with `/`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.errors import AdapterError, LinlyError, UnknownModelError
from model.serving.adapter_folders import Adapter
from model.suggestions import did_you_mean
from model.types import Message
from terminal.chat import TerminalChat

BASE_NAMES = ("base", "none")  # for the model without an adapter


@dataclass(frozen=True)
class Command:
    """A command; `run` gets the chat and the text after the command's name."""

    usage: str
    description: str
    run: Callable[[TerminalChat, str], None]


def run_command(chat: TerminalChat, line: str) -> None:
    """Runs the command in `line`, which begins with a slash.

    Raises:
        LinlyError: it fails, or there is no such command.
        EOFError: the user ends the chat.
    """
    name, _, argument = line[1:].strip().partition(" ")
    known = commands()
    if name not in known:
        names = [f"/{command}" for command in known]
        remedy = did_you_mean(f"/{name}", names, "commands_listed", name=name)
        raise LinlyError("unknown_command", name=name, remedy=remedy)
    known[name].run(chat, argument.strip())


def commands() -> dict[str, Command]:
    return {
        "adapter": Command(
            "/adapter [NAME]", "answer with that adapter, or with the base; alone: list them",
            _adapter,
        ),
        "system": Command(
            "/system [TEXT]", "set the system prompt; alone: show it; /system none: remove it",
            _system,
        ),
        "save": Command(
            "/save FILE", "add the chat to a JSON Lines file that finetune.py reads", _save
        ),
        "reset": Command("/reset", "begin a new chat", _reset),
        "help": Command("/help", "this list", _help),
        "quit": Command("/quit", "end, as Ctrl-D does", _quit),
    }  # fmt: skip


def _adapter(chat: TerminalChat, name: str) -> None:
    adapters = {adapter.name: adapter for adapter in chat.manager.adapters()}
    if not name:
        _list_adapters(chat, list(adapters.values()))
    elif name in adapters:
        _check_usable(adapters[name])
        chat.defaults = replace(chat.defaults, adapter=name)
        chat.console.print(f"{name} answers from now on.")
        for warning in adapters[name].warnings:
            chat.console.print_error(str(warning))
    elif name in BASE_NAMES:
        chat.defaults = replace(chat.defaults, adapter=None)
        chat.console.print("The base answers from now on.")
    else:
        ready = [adapter.name for adapter in adapters.values() if adapter.ready]
        remedy = did_you_mean(name, [*ready, *BASE_NAMES], "adapters_listed")
        raise UnknownModelError("no_adapter", name=name, remedy=remedy)


def _check_usable(adapter: Adapter) -> None:
    if adapter.problem:
        raise AdapterError("adapter_broken", name=adapter.name, problem=adapter.problem)


def _list_adapters(chat: TerminalChat, adapters: list[Adapter]) -> None:
    base = chat.manager.status().base_model
    rows: list[tuple[str | None, str, str]] = [(None, "base", base)]
    rows += [(adapter.name, adapter.name, _about(adapter)) for adapter in adapters]
    width = max(len(label) for _, label, _ in rows)
    for name, label, about in rows:
        mark = "*" if name == chat.defaults.adapter else " "
        chat.console.print(f"{mark} {label:{width}}  {about}".rstrip())


def _about(adapter: Adapter) -> str:
    """The adapter's problem, or its description and warnings."""
    if adapter.problem:
        return f"broken: {adapter.problem.message()}"
    notes = [f"note: {warning.message()}" for warning in adapter.warnings]
    return "; ".join(filter(None, [adapter.description, *notes]))


def _system(chat: TerminalChat, text: str) -> None:
    if text == "none":
        chat.defaults = replace(chat.defaults, system="")
        chat.console.print("The system prompt is the model's own.")
    elif text:
        chat.defaults = replace(chat.defaults, system=text)
        chat.console.print("The system prompt is set, for this chat's next reply on.")
    else:
        chat.console.print(chat.defaults.system or "The system prompt is the model's own.")


def _save(chat: TerminalChat, name: str) -> None:
    if not name:
        raise LinlyError("save_without_file")
    if not chat.turns:
        raise LinlyError("nothing_to_save")
    system = (Message("system", chat.defaults.system),) if chat.defaults.system else ()
    path = Path(name).expanduser()
    number = save_chat(path, (*system, *chat.turns))
    chat.console.print(f"Saved as chat {number} of {path}.")


def save_chat(path: Path, messages: Sequence[Message]) -> int:
    """Appends a chat to the JSON Lines file `path`, as training reads it; returns its number.

    Raises:
        LinlyError: the file contains something other than chats, or cannot be written.
    """
    row = {"messages": [{"role": m.role, "content": m.content} for m in messages]}
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = [line for line in text.split("\n") if line.strip()]
        if not all(_is_chat(line) for line in lines):
            raise LinlyError("save_file_not_chats", path=path)
        line_end = "\n" if text and not text.endswith("\n") else ""
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line_end}{json.dumps(row, ensure_ascii=False)}\n")
    except UnicodeDecodeError as error:
        raise LinlyError("save_file_not_chats", path=path) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise LinlyError("save_unwritable", path=path, reason=reason) from error
    return len(lines) + 1


def _is_chat(line: str) -> bool:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and "messages" in row


def _reset(chat: TerminalChat, _: str) -> None:
    chat.turns = ()
    chat.console.print("A new chat begins.")


def _help(chat: TerminalChat, _: str) -> None:
    for command in commands().values():
        chat.console.print(f"{command.usage:16}  {command.description}")
    chat.console.print("//TEXT            send a message that begins with a slash")
    chat.console.print("Ctrl-C stops a reply.")


def _quit(*_: object) -> None:
    raise EOFError
