"""Makes chats of messages that other programs keep as trees or lists.

Nodes of a tree that hold no message which can be imported are left out: their children follow the
nearest message above. A reply's parts that follow each other are joined.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from model.errors import RequestError
from web.chats.store.models import (
    MAX_SETTING,
    Chat,
    ChatMessage,
    ChatSettings,
    ImportedChat,
    check_length,
    generate_title,
)
from web.chats.transfer.import_models import NoExportError
from web.chats.transfer.message_content import Turn
from web.chats.transfer.own_format import new_id

JOINT = "\n\n"  # between the parts of a reply, and between system prompts


@dataclass(frozen=True)
class Node:
    """A node of a tree: its parent's id, and its message, if that can be imported."""

    parent: str | None
    turn: Turn | None


@dataclass(frozen=True)
class ChatHeader:
    """What is known of a chat beside its messages. An empty title is generated."""

    title: str = ""
    system: str = ""
    updated: float = 0.0


def chain(turns: Iterable[Turn | None]) -> dict[str, Node]:
    """Returns the nodes of a list of messages, each the parent of the next one."""
    return {
        str(number): Node(str(number - 1) if number else None, turn)
        for number, turn in enumerate(turns)
    }


def build_chat(
    header: ChatHeader, nodes: Mapping[str, Node], current: object = None
) -> ImportedChat | None:
    """Returns the chat with all branches, or None if it has no messages.

    Args:
        current: the id of the last node of the branch to show; without one, the last node.

    A node whose parent is missing begins a branch. System messages at the beginning become the
    chat's setting, unless the header has one.

    Raises:
        RequestError: the nodes form a circle, or a text is too long.
    """
    tree = _TreeReader(nodes)
    messages = tree.messages()
    if not messages:
        return None
    system = header.system if header.system.strip() else JOINT.join(tree.system)
    if len(system) > MAX_SETTING:
        raise RequestError("import_system_prompt_too_long", max_setting=MAX_SETTING)
    head = tree.imported.get(current) if isinstance(current, str) else None
    created = min(message.created for message in messages)
    chat = Chat(
        new_id(),
        header.title or generate_title(messages[0].text),
        created,
        max(created, header.updated),
        head or messages[-1].id,
        ChatSettings(system=system),
    )
    return ImportedChat(chat, tuple(messages))


class _TreeReader:
    """`imported` maps each node to the id of the nearest message at or above it."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._order = _parents_first(nodes)
        self.system: list[str] = []
        self.imported: dict[str, str | None] = {}

    def messages(self) -> list[ChatMessage]:
        """Returns the messages, parents first."""
        messages: dict[str, ChatMessage] = {}
        for name in self._order:
            self._add(name, messages)
        return _join_replies(messages, self.imported)

    def _add(self, name: str, messages: dict[str, ChatMessage]) -> None:
        node = self._nodes[name]
        parent = None if node.parent is None else self.imported.get(node.parent)
        self.imported[name] = parent
        if node.turn is None:
            return
        if node.turn.role == "system" and parent is None:
            if node.turn.text.strip() and node.turn.text not in self.system:
                self.system.append(node.turn.text)
            return
        turn, self.imported[name] = node.turn, new_id()
        message = ChatMessage(
            self.imported[name] or "", parent, turn.role, turn.text, created=turn.created
        )
        messages[message.id] = message


def _parents_first(nodes: Mapping[str, Node]) -> list[str]:
    """Returns the ids of all nodes, parents before children, else in their order in the file."""
    children: dict[str | None, list[str]] = defaultdict(list)
    for name, node in nodes.items():
        children[node.parent if node.parent in nodes else None].append(name)
    order: list[str] = []
    waiting = deque(children[None])
    while waiting:
        order.append(waiting.popleft())
        waiting.extend(children[order[-1]])
    if len(order) < len(nodes):  # the others are below each other
        raise NoExportError("import_circle")
    return order


def _join_replies(
    messages: Mapping[str, ChatMessage], imported: dict[str, str | None]
) -> list[ChatMessage]:
    """Returns the messages, with a reply that follows a reply added to that one.

    Programs with tools store several messages between two questions. Many prompt templates need
    user and assistant to alternate.
    """
    followers = Counter(message.parent for message in messages.values())
    texts: dict[str, list[str]] = {}
    target: dict[str | None, str | None] = {None: None}  # the message that each one is joined to
    for message in messages.values():
        above = target[message.parent]
        is_continued = (
            above is not None
            and message.role == messages[above].role == "assistant"
            and followers[message.parent] == 1
        )
        target[message.id] = above if is_continued else message.id
        texts.setdefault(target[message.id] or "", []).append(message.text)
    for name, found in imported.items():
        imported[name] = target[found]
    joined = []
    for name, parts in texts.items():
        text = JOINT.join(parts)
        check_length(text)
        joined.append(replace(messages[name], parent=target[messages[name].parent], text=text))
    return joined
