"""What rows of chat files have in common: names of roles, content of messages, instructions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from model.types import Message, Role

if TYPE_CHECKING:
    from model.text.prompt import PromptTemplate

# Roles by the names that OpenAI, ShareGPT and other programs give them, in lower case.
ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def find_role(name: object) -> Role | None:
    """The role of that name, in upper or lower case; None if it is unknown or not text."""
    return ROLES.get(name.lower()) if isinstance(name, str) else None


def content_text(content: object) -> str | None:
    """A message's content: text, or OpenAI's list of text parts; None for anything else."""
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            return None
        return "\n".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) else None


def has_lone_surrogate(text: str) -> bool:
    """Whether half a character is in `text`: JSON can hold one, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def instruction_messages(
    instruction: str, input_text: str, template: PromptTemplate
) -> tuple[Message, ...]:
    """Alpaca's instruction and input as messages: the user's, perhaps behind a system message.

    The template decides how the input is written.
    """
    if not input_text.strip():
        return (Message("user", instruction),)
    system, question = template.with_input(instruction, input_text)
    opening = (Message("system", system),) if system else ()
    return (*opening, Message("user", question))
