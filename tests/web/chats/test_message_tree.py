"""Ways through a tree of messages."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.types import Role
from web.chats.branches import comparison, families, newest_leaf, path
from web.chats.store.models import ChatMessage

Tree = dict[str, ChatMessage]


def tree(*messages: ChatMessage) -> Tree:
    return {message.id: message for message in messages}


def asked(name: str, parent: str | None) -> ChatMessage:
    return ChatMessage(name, parent, "user", name)


def replied(name: str, parent: str, compared: str | None = None) -> ChatMessage:
    return ChatMessage(name, parent, "assistant", name, comparison=compared)


def random_tree(seed: int) -> Tree:
    chance = random.Random(seed)  # noqa: S311
    messages: list[ChatMessage] = []
    for number in range(chance.randrange(1, 40)):
        parent = chance.choice([None, *(m.id for m in messages)])
        role: Role = "user" if chance.random() < 0.5 else "assistant"
        compared = chance.choice([None, None, "c1", "c2"])
        messages.append(ChatMessage(f"m{number}", parent, role, "", comparison=compared))
    return tree(*messages)


def ids(messages: list[ChatMessage]) -> list[str]:
    return [message.id for message in messages]


def slow_path(messages: Tree, head: str) -> list[str]:
    parent = messages[head].parent
    return [*(slow_path(messages, parent) if parent else []), head]


def slow_descent(messages: Tree, top: str) -> set[str]:
    children = [m.id for m in messages.values() if m.parent == top]
    return {top}.union(*(slow_descent(messages, child) for child in children))


@pytest.mark.parametrize("seed", range(60))
def test_random_trees_agree_with_a_slow_search(seed: int) -> None:
    messages = random_tree(seed)
    order = list(messages)
    for message in messages.values():
        assert ids(path(messages, message.id)) == slow_path(messages, message.id)
        newest = max(slow_descent(messages, message.id), key=order.index)
        assert newest_leaf(messages, message.id) == newest
        assert not [m for m in messages.values() if m.parent == newest]
        beside = families(messages)[message.parent, message.role]
        assert message in beside
        assert ids(beside) == sorted(ids(beside), key=order.index)
        assert {(m.parent, m.role) for m in beside} == {(message.parent, message.role)}
        others = [m for m in messages.values() if m not in beside]
        assert all((m.parent, m.role) != (message.parent, message.role) for m in others)


def test_no_head_is_no_path() -> None:
    messages = tree(asked("q", None))
    assert path(messages, None) == []
    assert path(messages, "gone") == []
    assert path({}, None) == []


def test_a_missing_parent_begins_the_path() -> None:
    assert ids(path(tree(asked("q", "gone"), replied("a", "q")), "a")) == ["q", "a"]


def test_a_circle_ends() -> None:
    messages = tree(asked("a", "b"), replied("b", "a"), asked("self", "self"))
    assert ids(path(messages, "a")) == ["b", "a"]
    assert ids(path(messages, "self")) == ["self"]
    assert newest_leaf(messages, "a") in ("a", "b")


def test_the_newest_leaf_is_where_one_left_off() -> None:
    """Not below the newest of the children, if an older one was gone on with later."""
    messages = tree(
        asked("q", None), replied("a1", "q"), replied("a2", "q"), asked("q2", "a1"),
        replied("elsewhere", "gone"),
    )  # fmt: skip
    assert newest_leaf(messages, "q") == "q2"
    assert newest_leaf(messages, "a2") == "a2"


def test_siblings_differ_in_role() -> None:
    messages = tree(asked("q", None), replied("a", "q"), asked("odd", "q"))
    assert ids(families(messages)["q", "assistant"]) == ["a"]
    assert ids(families(messages)["q", "user"]) == ["odd"]


def test_the_newest_comparison() -> None:
    messages = tree(
        asked("q", None), replied("plain", "q"),
        replied("a1", "q", "first"), replied("a2", "q", "first"),
        replied("b1", "q", "second"), replied("b2", "q", "second"),
        asked("q2", "b1"), replied("c1", "q2", "third"),
    )  # fmt: skip
    assert ids(comparison(messages, "q")) == ["b1", "b2"]
    assert ids(comparison(messages, "q2")) == ["c1"]
    assert comparison(messages, "plain") == []


def test_long_chats_are_no_recursion() -> None:
    first = asked("m0", None)
    chain = [first, *(replace(first, id=f"m{n}", parent=f"m{n - 1}") for n in range(1, 20_000))]
    messages = tree(*chain)
    assert len(path(messages, "m19999")) == 20_000
    assert newest_leaf(messages, "m0") == "m19999"
