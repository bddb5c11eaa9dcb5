"""Base and adapter side by side: held-out losses, and their replies to the same questions."""

from __future__ import annotations

from collections.abc import Sequence

from training.generation import Comparison
from training.report import markdown_cell

FILE = "evaluation.md"


def report_of(
    name: str, base: str, losses: tuple[float, float] | None, asked: Sequence[Comparison]
) -> str:
    """As Markdown.

    Args:
        losses: on the held-out chats, in nats a token: of the base, and of the adapter.
        asked: the first question of each of them.
    """
    lines = [f"# {name}, measured beside {base}", ""]
    if losses is not None:
        before, after = losses
        lines += [
            f"| held-out loss, {len(asked)} chats | nats a token |", "|---|---|",
            f"| {base} | {before:.3f} |",
            f"| {name} | {after:.3f} ({after / before - 1:+.0%}) |" if before else "",
            "",
        ]  # fmt: skip
    lines += [f"| asked | data | {base} | {name} |", "|---|---|---|---|"]
    lines += [
        "| " + " | ".join(map(markdown_cell, (a.question, a.wanted, a.base, a.adapter))) + " |"
        for a in asked
    ]
    return "\n".join(lines) + "\n"
