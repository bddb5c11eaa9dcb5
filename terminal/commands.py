"""What a line does that begins with `/`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from model.serving.adapter_registry import Adapter
from model.suggestions import did_you_mean
from model.types import AdapterError, LinlyError, Message, UnknownModelError
from terminal.chat import TerminalChat
from terminal.saving import save_chat

BASE = ("base", "none")  # what the model without an adapter is called


@dataclass(frozen=True)
class Command:
    """`does` gets the chat and what stands behind the command."""

    usage: str
    about: str
    does: Callable[[TerminalChat, str], None]


def run_command(chat: TerminalChat, line: str) -> None:
    """Do what `line`, which begins with a slash, says.

    Raises:
        LinlyError: it cannot be done, or there is no such command.
        EOFError: the chat is over.
    """
    name, _, rest = line[1:].strip().partition(" ")
    known = commands()
    if name not in known:
        names = [f"/{command}" for command in known]
        close = did_you_mean(f"/{name}", names, "commands_listed", name=name)
        raise LinlyError("unknown_command", name=name, remedy=close)
    known[name].does(chat, rest.strip())


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
    found = {adapter.name: adapter for adapter in chat.manager.adapters()}
    if not name:
        _list(chat, list(found.values()))
    elif name in found:
        chat.defaults = replace(chat.defaults, adapter=_usable(found[name]).name)
        chat.screen.print(f"{name} answers from now on.")
        for warning in found[name].warnings:
            chat.screen.complain(str(warning))
    elif name in BASE:
        chat.defaults = replace(chat.defaults, adapter=None)
        chat.screen.print("The base answers from now on.")
    else:
        ready = [adapter.name for adapter in found.values() if adapter.ready]
        close = did_you_mean(name, [*ready, *BASE], "adapters_listed")
        raise UnknownModelError("no_adapter", name=name, remedy=close)


def _usable(adapter: Adapter) -> Adapter:
    if adapter.problem:
        raise AdapterError("adapter_broken", name=adapter.name, problem=adapter.problem)
    return adapter


def _list(chat: TerminalChat, adapters: list[Adapter]) -> None:
    base = chat.manager.status().base_model
    rows = [(None, "base", base), *((one.name, one.name, _verdict(one)) for one in adapters)]
    width = max(len(shown) for _, shown, _ in rows)
    for name, shown, about in rows:
        mark = "*" if name == chat.defaults.adapter else " "
        chat.screen.print(f"{mark} {shown:{width}}  {about}".rstrip())


def _verdict(adapter: Adapter) -> str:
    if adapter.problem:
        return f"broken: {adapter.problem.message()}"
    notes = [f"note: {warning.message()}" for warning in adapter.warnings]
    return "; ".join(filter(None, [adapter.description, *notes]))


def _system(chat: TerminalChat, text: str) -> None:
    if text == "none":
        chat.defaults = replace(chat.defaults, system="")
        chat.screen.print("The system prompt is the model's own.")
    elif text:
        chat.defaults = replace(chat.defaults, system=text)
        chat.screen.print("The system prompt is set, for this chat's next reply on.")
    else:
        chat.screen.print(chat.defaults.system or "The system prompt is the model's own.")


def _save(chat: TerminalChat, name: str) -> None:
    if not name:
        raise LinlyError("save_without_file")
    if not chat.turns:
        raise LinlyError("nothing_to_save")
    system = (Message("system", chat.defaults.system),) if chat.defaults.system else ()
    path = Path(name).expanduser()
    number = save_chat(path, (*system, *chat.turns))
    chat.screen.print(f"Saved as chat {number} of {path}.")


def _reset(chat: TerminalChat, _: str) -> None:
    chat.turns = ()
    chat.screen.print("A new chat begins.")


def _help(chat: TerminalChat, _: str) -> None:
    for command in commands().values():
        chat.screen.print(f"{command.usage:16}  {command.about}")
    chat.screen.print("//TEXT            send a message that begins with a slash")
    chat.screen.print("Ctrl-C stops a reply.")


def _quit(*_: object) -> None:
    raise EOFError
