"""Changes of folders that the doctor's tests make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

Change = Callable[[Path], None]


def edit_json(file: Path, **changes: Any) -> None:
    """Changes entries of a JSON file; None removes them."""
    data = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    data = {key: value for key, value in {**data, **changes}.items() if value is not None}
    file.write_text(json.dumps(data), encoding="utf-8")


def change_tensors(name: str, change: Callable[[dict[str, Any]], object]) -> Change:
    """A change of the tensors in the file `name`."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / name)
        change(tensors)
        save_file(tensors, folder / name)

    return apply
