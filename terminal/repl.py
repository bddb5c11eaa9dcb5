"""The interactive chat: reads lines from the keyboard until the user ends it."""

from __future__ import annotations

from model.errors import LinlyError
from model.program import interruptible
from model.serving.background_loader import Load
from terminal.chat import TerminalChat
from terminal.commands import run_command
from terminal.console import ReadLine, error_sentence, line_reader, standard_console
from terminal.options import RequestDefaults, TerminalOptions
from terminal.startup import running_manager

PROMPT = "> "
HISTORY = "terminal_history"  # in the data folder


def run(options: TerminalOptions, defaults: RequestDefaults, load: Load) -> int:
    """Loads the model and chats until the user ends it; returns 0.

    Raises:
        LinlyError: the model could not be loaded.
    """
    console = standard_console()
    with running_manager(options.settings, defaults, load, console) as manager:
        base = manager.status().base_model
        model = f"{defaults.adapter} on {base}" if defaults.adapter else base
        console.print(f"{model} is ready. /help lists the commands, Ctrl-D ends the chat.")
        chat = TerminalChat(manager, console, defaults)
        with interruptible():
            converse(chat, line_reader(options.settings.data_dir / HISTORY))
    return 0


def converse(chat: TerminalChat, read_line: ReadLine) -> None:
    """Answers each line until the last one. A line without a reply is offered again for editing."""
    offered = ""
    while True:
        try:
            line = read_line(PROMPT, offered)
            offered = "" if _handle(chat, line) else line
        except EOFError:
            return
        except KeyboardInterrupt:
            chat.console.print("")
            offered = ""
        except UnicodeError:
            chat.console.print_error("That was not UTF-8 text.")


def _handle(chat: TerminalChat, line: str) -> bool:
    """Runs a command, or answers a message; False if a message got no reply."""
    # A terminal can send bytes that are not UTF-8; they arrive as lone surrogates.
    text = line.encode(errors="replace").decode().strip()
    if not text:
        return True
    if text.startswith("/") and not text.startswith("//"):
        try:
            run_command(chat, text)
        except LinlyError as error:
            chat.console.print_error(error_sentence(error))
        return True
    return chat.ask(text.removeprefix("/"))
