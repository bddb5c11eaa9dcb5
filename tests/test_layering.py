"""Imports go one way: app -> web or terminal -> serving -> engine -> layers -> types."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from model.config.settings import CHECKOUT

PACKAGES = ("model", "web", "terminal", "training")
SOURCES = [path for package in PACKAGES for path in sorted((CHECKOUT / package).rglob("*.py"))]
# Packages that work with model folders on the disk.
FILES = ("model.folders", "model.doctor", "model.convert", "model.merge", "model.commands")
LEARNING = (
    "training.base_loader",
    "training.trainer",
    "training.progress_callback",
    "training.run",
    "training.finalize",
    "training.evaluate",
    "training.generation",
    "training.report",
)
PAGE = ("web.login", "web.page_middleware", "web.visitor", "web.api", "web.ui", "web.server")
# Forbidden imports, by prefixes of module names.
FORBIDDEN = {
    "model.layers": (
        "model.engine",
        "model.text",
        *FILES,
        "model.config",
        "model.serving",
        "web",
        "training",
    ),
    "model.engine": (
        "model.text.prompt",
        *FILES,
        "model.config.settings",
        "model.serving",
        "model.text",
        "web",
        "training",
    ),
    "model.folders": (
        "model.doctor",
        "model.convert",
        "model.merge",
        "model.commands",
        "model.engine",
        "model.serving",
    ),
    "model": ("web", "terminal", "training", "gradio", "fastapi"),
    # The page uses a training's data and its process, not the trainer.
    "web": (
        *LEARNING,
        "terminal",
        "model.engine",
        "model.layers",
        "model.weight_loader",
        "torch",
        "transformers",
    ),
    # Within the page: identity comes before access, and access before the user interface.
    "web.hosts": ("web", "model"),
    "web.workers": ("web",),
    "web.page_rules": ("web",),
    "web.http_framing": ("web", "model"),
    "web.access": ("web.public_link.limits", "web.chats", *PAGE),
    "web.public_link.limits": ("web.access", "web.chats", *PAGE),
    "web.chats": ("web.access", "web.hosts", *PAGE),
    "web.visitor": ("web.login", "web.page_middleware", "web.api", "web.ui", "web.server"),
    "web.login": ("web.page_middleware", "web.api", "web.ui", "web.server"),
    "web.page_middleware": ("web.api", "web.ui", "web.server"),
    "web.public_link.middleware": ("web.ui", "web.server"),
    "web.api": (
        "web.chats",
        "web.ui",
        "web.server",
        "web.login",
        "web.page_middleware",
        "web.visitor",
    ),
    "web.ui": ("web.api", "web.login", "web.page_middleware", "web.server"),
    "terminal": (
        "training",
        "web",
        "model.engine",
        "model.layers",
        "model.weight_loader",
        "torch",
        "transformers",
        "gradio",
        "fastapi",
    ),
    "training": ("web", "terminal", "model.engine", "model.serving.manager"),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(CHECKOUT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULE_PATHS = {module_name(path): path for path in SOURCES}


def imports(path: Path) -> set[str]:
    """Returns all modules that a file imports, also within functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    name = module_name(path)
    forbidden = {f for layer, names in FORBIDDEN.items() if within(name, layer) for f in names}
    broken = {i for i in imports(path) if any(within(i, f) for f in forbidden)}
    assert not broken, f"{name} must not import {', '.join(sorted(broken))}"


VALUES = ("model.display", "model.translations", "model.errors", "model.sampling", "model.types")


@pytest.mark.parametrize("name", VALUES)
def test_values_and_errors_import_nothing_else(name: str) -> None:
    own = {i for i in imports(CHECKOUT / f"{name.replace('.', '/')}.py") if within(i, "model")}
    assert own <= set(VALUES)


def package(name: str) -> str:
    """A module's package; modules beside packages, as model.errors is, count as packages."""
    path = MODULE_PATHS[name].relative_to(CHECKOUT)
    return ".".join(path.parts[:-1]) if len(path.parts) > 2 else name


def loops(edges: Iterable[tuple[str, str]]) -> None:
    """Raises CycleError if the edges form a loop."""
    graph: dict[str, set[str]] = {}
    for source, target in edges:
        graph.setdefault(source, set()).add(target)
    tuple(TopologicalSorter(graph).static_order())


def test_neither_packages_nor_modules_of_the_page_form_loops() -> None:
    """Also by an import within a function."""
    edges = {
        (name, target)
        for name, path in MODULE_PATHS.items()
        for target in targets(path) & MODULE_PATHS.keys() - {name}
    }
    assert len(edges) > 500
    loops(edge for edge in edges if within(edge[0], "web"))
    packages = {(package(source), package(target)) for source, target in edges}
    loops(edge for edge in packages if edge[0] != edge[1])
    with pytest.raises(CycleError):
        loops({*packages, ("model.types", "model.serving"), ("model.serving", "model.types")})


def targets(path: Path) -> set[str]:
    """Returns the modules that a file imports, also those imported by name from their package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {f"{node.module}.{alias.name}" for node in nodes for alias in node.names}
    packages = {
        node.module
        for node in nodes
        if any(
            f"{node.module}.{alias.name}" not in names & MODULE_PATHS.keys() for alias in node.names
        )
    }
    return names | {package for package in packages if package}


def test_files_and_imports_are_found() -> None:
    """The other tests would pass with an empty list of files or imports."""
    assert len(SOURCES) > 30
    assert "model.serving.manager" in imports(CHECKOUT / "web" / "api" / "routes.py")
