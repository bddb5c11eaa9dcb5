"""A chat with whoever sits at the keyboard."""

from __future__ import annotations

from model.serving.background_loader import Load
from model.types import LinlyError
from terminal.chat import TerminalChat
from terminal.commands import run_command
from terminal.console import Read, error_sentence, line_reader, standard_screen
from terminal.options import RequestDefaults, TerminalOptions
from terminal.startup import running_manager

PROMPT = "> "
HISTORY = "terminal_history"  # in the data folder


def run(options: TerminalOptions, wishes: RequestDefaults, load: Load) -> int:
    """Load the model and chat until the user ends it: 0.

    Raises:
        LinlyError: the model could not be loaded.
    """
    screen = standard_screen()
    with running_manager(options.settings, wishes, load, screen) as manager:
        status = manager.status()
        who = f"{wishes.adapter} on {status.base_model}" if wishes.adapter else status.base_model
        screen.print(f"{who} is ready. /help lists the commands, Ctrl-D ends the chat.")
        converse(
            TerminalChat(manager, screen, wishes), line_reader(options.settings.data_dir / HISTORY)
        )
    return 0


def converse(chat: TerminalChat, read: Read) -> None:
    """Do what each line says until there are no more. A line that got no reply is there again."""
    typed = ""
    while True:
        try:
            line = read(PROMPT, typed)
            typed = "" if _done(chat, line) else line
        except EOFError:
            return
        except KeyboardInterrupt:
            chat.screen.print("")
            typed = ""
        except UnicodeError:
            chat.screen.complain("That was not UTF-8 text.")


def _done(chat: TerminalChat, line: str) -> bool:
    """Whether the line has done what it was to do."""
    text = line.encode(errors="replace").decode().strip()  # half characters come from a terminal
    if not text:
        return True
    if text.startswith("/") and not text.startswith("//"):
        try:
            run_command(chat, text)
        except LinlyError as error:
            chat.screen.complain(error_sentence(error))
        return True
    return chat.ask(text.removeprefix("/"))
