"""Reads compose.yaml, deploy/ and the Dockerfiles for the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from model.config.settings import CHECKOUT

ROOT = CHECKOUT
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

Document = dict[str, Any]


def documents(path: Path) -> list[Document]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def manifests() -> list[Document]:
    """Returns all manifests, also the job that fills the volume."""
    files = sorted(KUBERNETES.glob("*.yaml"))
    return [d for path in files if path.name != "kustomization.yaml" for d in documents(path)]


def of_kind(*kinds: str) -> dict[str, Document]:
    return {d["metadata"]["name"]: d for d in manifests() if d["kind"] in kinds}


def pods() -> dict[str, Document]:
    """Returns the templates of all pods, by the name of their controller."""
    controllers = of_kind("Deployment", "StatefulSet", "Job")
    return {name: controller["spec"]["template"] for name, controller in controllers.items()}


def container(name: str) -> Document:
    (only,) = pods()[name]["spec"]["containers"]
    return only


def ports(name: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(name).get("ports", [])}


def services() -> dict[str, Document]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def instructions(dockerfile: Path, name: str) -> list[str]:
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [line.split(maxsplit=1)[1] for line in lines if line.split()[:1] == [name]]


def exposed(dockerfile: Path) -> set[int]:
    return {int(port) for line in instructions(dockerfile, "EXPOSE") for port in line.split()}


def walk(value: Any) -> Iterator[Document]:
    """Yields all mappings in `value`."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for item in inner:
            yield from walk(item)


def mounts(service: Document) -> dict[str, str]:
    """Returns the mounts of a compose service: their source by the path in the container."""
    return {volume.split(":")[1]: volume.split(":")[0] for volume in service.get("volumes", [])}
