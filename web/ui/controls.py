"""Numbers for the Gradio components that are brought up to date, and updates as the page gets them.

Gradio's own events run in the browser alone. The page's stream carries updates by number, and
`static/controls.js` hands them to Gradio through one hidden component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Updates = dict[Any, Any]  # a component to `gr.update(...)`, or to its value
Encoded = list[list[Any]]  # [number, properties] each


class Controls:
    """The components in the order in which the page knows them."""

    def __init__(self, components: Sequence[Any]) -> None:
        self.components = list(dict.fromkeys(components))
        self._numbers = {one: number for number, one in enumerate(self.components)}

    def encode(self, updates: Mapping[Any, Any]) -> Encoded:
        """Updates as JSON has them."""
        return [[self._numbers[one], _properties(value)] for one, value in updates.items()]


def merge(updates: Updates, more: Mapping[Any, Any]) -> None:
    """Add updates; of one component, those of `more` come on top of what is there."""
    for one, value in more.items():
        before = updates.get(one)
        both = isinstance(before, dict) and isinstance(value, dict)
        updates[one] = {**before, **value} if both and before is not None else value


def _properties(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and value.get("__type__") == "update":
        return {name: one for name, one in value.items() if name != "__type__"}
    return {"value": value}
