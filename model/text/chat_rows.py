"""Parts of chat files from other programs: names of roles, content of messages, instructions.

Training data, rows of the terminal's batches and imported chats are read with this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from model.types import Message, Role

if TYPE_CHECKING:
    from model.text.prompt_template import PromptTemplate

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

# Keys of a reply, or of a row with one, that hold the thoughts before it.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def find_role(name: object) -> Role | None:
    """The role with this name, in upper or lower case; None if it is unknown or not text."""
    return ROLES.get(name.lower()) if isinstance(name, str) else None


def content_text(content: object) -> str | None:
    """A message's text: its content, or OpenAI's list of text parts; None for anything else."""
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            return None
        return "\n".join(str(part.get("text", "")) for part in content)
    return content if isinstance(content, str) else None


def with_reasoning(text: str, reasoning: str) -> str:
    """A reply after its thoughts, which are between the tags that most models write."""
    reasoning = reasoning.strip()
    return f"<think>\n{reasoning}\n</think>\n\n{text}" if reasoning else text


def has_lone_surrogate(text: str) -> bool:
    """Whether `text` contains half a surrogate pair: JSON can express one, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def instruction_messages(
    instruction: str, input_text: str, template: PromptTemplate
) -> tuple[Message, ...]:
    """Alpaca's instruction and input as messages: a user message, perhaps after a system message.

    The template decides how the input is written.
    """
    if not input_text.strip():
        return (Message("user", instruction),)
    system_prompt, question = template.with_input(instruction, input_text)
    system = (Message("system", system_prompt),) if system_prompt else ()
    return (*system, Message("user", question))
