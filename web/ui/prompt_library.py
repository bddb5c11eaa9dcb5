"""The library: presets of the sampling and prompts that visitors save, by owner."""

from __future__ import annotations

from model.errors import RequestError
from web.chats.store.chat_store import ChatStore
from web.chats.store.library import validate_name
from web.chats.store.models import SavedPreset, Snippet
from web.ui.choices import preset_choices
from web.ui.presets import PRESETS, Preset, preset_from_sampling

OWN = "own:"  # before the name of a visitor's preset, so that it hides no built-in one


class PromptLibrary:
    """Presets and prompts in the chat store, which calls prompts snippets."""

    def __init__(self, store: ChatStore) -> None:
        self._store = store

    def presets(self, owner: str) -> dict[str, Preset]:
        """Returns the built-in presets and the owner's, by the control's values."""
        own = {
            f"{OWN}{saved.name}": preset_from_sampling(saved.sampling)
            for saved in self._store.presets(owner)
        }
        return {**PRESETS, **own}

    def preset_choices(self, owner: str, language: str) -> list[tuple[str, str]]:
        """Returns the presets with their labels."""
        own = [(saved.name, f"{OWN}{saved.name}") for saved in self._store.presets(owner)]
        return [*preset_choices(language), *own]

    def save_preset(self, owner: str, saved: SavedPreset) -> str:
        """Saves a preset; returns the control's value for it.

        Raises:
            RequestError: it has no name, or too long a one.
        """
        self._store.save_preset(owner, saved)
        return f"{OWN}{validate_name(saved.name)}"

    def delete_preset(self, owner: str, value: str | None) -> None:
        """Deletes a preset of the owner.

        Raises:
            RequestError: it is a built-in one, or none is chosen.
        """
        if not value or not value.startswith(OWN):
            raise RequestError("preset_not_deletable")
        self._store.delete_preset(owner, value.removeprefix(OWN))

    def snippets(self, owner: str) -> list[tuple[str, str]]:
        """Returns the owner's prompts as choices: label and value are the same."""
        return [(name, name) for name in self._store.snippets(owner)]

    def snippet(self, owner: str, name: str | None) -> str:
        """Returns a prompt's text; "" for one that is gone."""
        return self._store.snippet(owner, name or "")

    def save_snippet(self, owner: str, name: str, text: str) -> None:
        """Saves a prompt.

        Raises:
            RequestError: it has no text, no name, or too long a one.
        """
        if not text.strip():
            raise RequestError("no_message_to_save")
        self._store.save_snippet(owner, Snippet(name, text))

    def delete_snippet(self, owner: str, name: str | None) -> None:
        """Deletes a prompt.

        Raises:
            RequestError: none is chosen.
        """
        if not name:
            raise RequestError("no_prompt_chosen")
        self._store.delete_snippet(owner, name)
