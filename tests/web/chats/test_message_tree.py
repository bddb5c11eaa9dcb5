"""Message tree: paths, siblings and comparisons."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from model.types import Role
from web.chats.message_tree import compared_replies, newest_leaf, path_to, siblings_by_place
from web.chats.store.models import ChatMessage

Tree = dict[str, ChatMessage]


def tree(*messages: ChatMessage) -> Tree:
    return {message.id: message for message in messages}


def question(name: str, parent: str | None) -> ChatMessage:
    return ChatMessage(name, parent, "user", name)


def reply(name: str, parent: str, comparison: str | None = None) -> ChatMessage:
    return ChatMessage(name, parent, "assistant", name, comparison=comparison)


def random_tree(seed: int) -> Tree:
    dice = random.Random(seed)  # noqa: S311
    messages: list[ChatMessage] = []
    for number in range(dice.randrange(1, 40)):
        parent = dice.choice([None, *(m.id for m in messages)])
        role: Role = "user" if dice.random() < 0.5 else "assistant"
        comparison = dice.choice([None, None, "c1", "c2"])
        messages.append(ChatMessage(f"m{number}", parent, role, "", comparison=comparison))
    return tree(*messages)


def ids(messages: list[ChatMessage]) -> list[str]:
    return [message.id for message in messages]


def slow_path(messages: Tree, head: str) -> list[str]:
    parent = messages[head].parent
    return [*(slow_path(messages, parent) if parent else []), head]


def slow_descendants(messages: Tree, top: str) -> set[str]:
    children = [m.id for m in messages.values() if m.parent == top]
    return {top}.union(*(slow_descendants(messages, child) for child in children))


@pytest.mark.parametrize("seed", range(60))
def test_random_trees_agree_with_a_slow_search(seed: int) -> None:
    messages = random_tree(seed)
    order = list(messages)
    for message in messages.values():
        assert ids(path_to(messages, message.id)) == slow_path(messages, message.id)
        newest = max(slow_descendants(messages, message.id), key=order.index)
        assert newest_leaf(messages, message.id) == newest
        assert not [m for m in messages.values() if m.parent == newest]
        siblings = siblings_by_place(messages)[message.parent, message.role]
        assert message in siblings
        assert ids(siblings) == sorted(ids(siblings), key=order.index)
        assert {(m.parent, m.role) for m in siblings} == {(message.parent, message.role)}
        others = [m for m in messages.values() if m not in siblings]
        assert all((m.parent, m.role) != (message.parent, message.role) for m in others)


def test_path_to_no_head_is_empty() -> None:
    messages = tree(question("q", None))
    assert path_to(messages, None) == []
    assert path_to(messages, "gone") == []
    assert path_to({}, None) == []


def test_path_begins_after_a_missing_parent() -> None:
    assert ids(path_to(tree(question("q", "gone"), reply("a", "q")), "a")) == ["q", "a"]


def test_path_ends_at_a_circle() -> None:
    messages = tree(question("a", "b"), reply("b", "a"), question("self", "self"))
    assert ids(path_to(messages, "a")) == ["b", "a"]
    assert ids(path_to(messages, "self")) == ["self"]
    assert newest_leaf(messages, "a") in ("a", "b")


def test_newest_leaf_is_below_the_child_that_was_continued_last() -> None:
    """It was below the newest child, even if the user had continued an older one since."""
    messages = tree(
        question("q", None), reply("a1", "q"), reply("a2", "q"), question("q2", "a1"),
        reply("unrelated", "gone"),
    )  # fmt: skip
    assert newest_leaf(messages, "q") == "q2"
    assert newest_leaf(messages, "a2") == "a2"


def test_siblings_have_the_same_role() -> None:
    messages = tree(question("q", None), reply("a", "q"), question("odd", "q"))
    assert ids(siblings_by_place(messages)["q", "assistant"]) == ["a"]
    assert ids(siblings_by_place(messages)["q", "user"]) == ["odd"]


def test_compared_replies_are_those_of_the_latest_comparison() -> None:
    messages = tree(
        question("q", None), reply("plain", "q"),
        reply("a1", "q", "first"), reply("a2", "q", "first"),
        reply("b1", "q", "second"), reply("b2", "q", "second"),
        question("q2", "b1"), reply("c1", "q2", "third"),
    )  # fmt: skip
    assert ids(compared_replies(messages, "q")) == ["b1", "b2"]
    assert ids(compared_replies(messages, "q", "first")) == ["a1", "a2"]
    assert ids(compared_replies(messages, "q2")) == ["c1"]
    assert compared_replies(messages, "plain") == []


def test_long_chats_need_no_recursion() -> None:
    first = question("m0", None)
    chain = [first, *(replace(first, id=f"m{n}", parent=f"m{n - 1}") for n in range(1, 20_000))]
    messages = tree(*chain)
    assert len(path_to(messages, "m19999")) == 20_000
    assert newest_leaf(messages, "m0") == "m19999"
