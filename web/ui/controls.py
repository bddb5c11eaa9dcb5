"""Numbers of the Gradio components that are updated, and updates as JSON.

Gradio's own events run only in the browser. The page's stream carries updates by number, and
`static/controls.js` hands them to Gradio through one hidden component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from web.gradio_adapter import update_properties

Updates = dict[Any, Any]  # a component to `gr.update(...)`, or to its value
Encoded = list[list[Any]]  # [number, properties] each


class Controls:
    """The components in the order of their numbers."""

    def __init__(self, components: Sequence[Any]) -> None:
        self.components = list(dict.fromkeys(components))
        self._numbers = {component: i for i, component in enumerate(self.components)}

    def encode(self, updates: Mapping[Any, Any]) -> Encoded:
        """Returns updates as values of JSON."""
        return [
            [self._numbers[component], update_properties(value)]
            for component, value in updates.items()
        ]


def merge(updates: Updates, more: Mapping[Any, Any]) -> None:
    """Adds updates. Of one component, the properties of `more` replace those of `updates`."""
    for component, value in more.items():
        before = updates.get(component)
        if isinstance(before, dict) and isinstance(value, dict):
            updates[component] = {**before, **value}
        else:
            updates[component] = value
