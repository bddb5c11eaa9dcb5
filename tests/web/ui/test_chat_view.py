"""Values that the browser draws."""

from __future__ import annotations

import pytest

from web.chats.identity import Owner
from web.chats.store.models import Chat, ChatSettings
from web.chats.tab_sessions import TabSession
from web.ui import chat_view
from web.ui.chat_view import sidebar_value


def chats(count: int) -> list[Chat]:
    return [Chat(f"{n}", f"chat {n}", 1.0, 2.0, None, ChatSettings()) for n in range(count)]


@pytest.mark.parametrize(
    ("total", "query", "shown", "more"),
    [(2, "", 2, False), (3, "", 3, False), (4, "", 3, True), (4, "ship", 3, False)],
)
def test_sidebar_value_says_that_there_are_more_chats(
    monkeypatch: pytest.MonkeyPatch, total: int, query: str, shown: int, more: bool
) -> None:
    """So that the visitor can search for them; while they search, nothing is said."""
    monkeypatch.setattr(chat_view, "MAX_LISTED_CHATS", 3)
    value = sidebar_value(chats(total), (), TabSession(Owner("anna"), query=query))
    assert [chat["title"] for chat in value["chats"]] == [f"chat {n}" for n in range(shown)]
    assert value["more"] is more
