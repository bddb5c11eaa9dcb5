"""Votes, prompts and presets in the store, over both databases."""

from __future__ import annotations

import pytest

from model.errors import RequestError
from model.sampling import Sampling
from tests.web.chats.store.samples import MEI, OTHER, begin_chat, streaming_reply
from web.chats.store import library
from web.chats.store.chat_store import ChatStore, UnknownChatError
from web.chats.store.models import SavedPreset, Snippet, Vote


def test_comparison_has_one_vote(store: ChatStore) -> None:
    chat = begin_chat(store)
    for name, comparison in (("a", "c1"), ("b", "c1"), ("x", "c2")):
        store.add(MEI, chat.id, streaming_reply(name, chat.head or "", comparison))
    store.vote(MEI, Vote("c1", chat.id, "a", 1.0))
    store.vote(MEI, Vote("c2", chat.id, None, 2.0))
    last = Vote("c1", chat.id, "b", 3.0)
    store.vote(MEI, last)
    assert store.votes(MEI) == [Vote("c2", chat.id, None, 2.0), last]
    assert store.votes(MEI, chat.id) == store.votes(MEI)
    assert store.votes(MEI, begin_chat(store).id) == []
    for comparison, winner in (("c1", "x"), ("c1", "none"), ("none", None), ("none", "a")):
        with pytest.raises(UnknownChatError):
            store.vote(MEI, Vote(comparison, chat.id, winner, 4.0))
    assert len(store.votes(MEI)) == 2


def test_prompts_and_presets_are_sorted_replaced_and_deleted(store: ChatStore) -> None:
    for name, text in (("b", "1"), (" A ", "2"), ("b", "3")):
        store.save_snippet(MEI, Snippet(name, text))
    assert store.snippets(MEI) == ["A", "b"]
    assert [store.snippet(MEI, name) for name in ("A", "b", "none")] == ["2", "3", ""]
    assert store.snippet(OTHER, "A") == ""
    store.delete_snippet(MEI, "b")
    store.delete_snippet(MEI, "none")
    assert store.snippets(MEI) == ["A"]
    assert store.snippet(MEI, "b") == ""
    for name, seed in (("冷", 1), ("B", 2), ("冷", 3)):
        store.save_preset(MEI, SavedPreset(name, Sampling(seed=seed)))
    assert store.presets(MEI) == [
        SavedPreset("B", Sampling(seed=2)), SavedPreset("冷", Sampling(seed=3))
    ]  # fmt: skip
    store.delete_preset(MEI, "B")
    assert [preset.name for preset in store.presets(MEI)] == ["冷"]


def test_prompts_and_presets_are_bounded(store: ChatStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each open tab is sent them every second."""
    monkeypatch.setattr(library, "MAX_ITEMS_PER_OWNER", 2)

    def save(name: str, owner: str = MEI) -> None:
        store.save_snippet(owner, Snippet(name, "text"))
        store.save_preset(owner, SavedPreset(name, Sampling()))

    for name in ("a", "b", "b"):
        save(name)
    with pytest.raises(RequestError, match="cannot save more than 2"):
        store.save_snippet(MEI, Snippet("c", "text"))
    with pytest.raises(RequestError, match="cannot save more than 2"):
        store.save_preset(MEI, SavedPreset("c", Sampling()))
    save("c", OTHER)
    store.delete_snippet(MEI, "a")
    store.delete_preset(MEI, "a")
    save("c")
    assert store.snippets(MEI) == ["b", "c"]


@pytest.mark.parametrize("name", ["", "  ", "x" * 61])
def test_invalid_names_are_refused(store: ChatStore, name: str) -> None:
    with pytest.raises(RequestError):
        store.save_snippet(MEI, Snippet(name, "text"))
    with pytest.raises(RequestError):
        store.save_preset(MEI, SavedPreset(name, Sampling()))
