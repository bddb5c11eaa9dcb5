"""What other programs' files have in place of a tree of messages: turns, one after the other."""

from __future__ import annotations

from model.types import Role
from web.chats.codec import clean
from web.chats.shapes import ROLES, field, listed, role_field

Turn = tuple[Role, str]
SPEAKERS: dict[str, Role] = {  # ShareGPT's
    **ROLES,
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
}


def message_turns(value: object) -> list[Turn]:
    """What is under `messages`, as OpenAI has it.

    Raises:
        RequestError: it is not of that shape.
    """
    return [
        (role_field(turn), clean(field(turn, "content", str))) for turn in listed(value, "messages")
    ]


def conversation_turns(value: object) -> list[Turn]:
    """What is under `conversations`, as ShareGPT has it.

    Raises:
        RequestError: it is not of that shape.
    """
    return [
        (role_field(turn, "from", SPEAKERS), clean(field(turn, "value", str)))
        for turn in listed(value, "conversations")
    ]
