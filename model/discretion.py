"""What visitors may read of an error: where files lie is nobody's business but the operator's."""

from __future__ import annotations

import re

FOLDERS = re.compile(r"(?<![\w:/])/(?:[^\s/:]+/)+")


def without_paths(text: str) -> str:
    """Files by their names alone."""
    return FOLDERS.sub("", text)
