"""What compose.yaml, deploy/ and the Dockerfiles say, for the tests."""

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
    """All that is sent to a cluster, and the job that fills the volume."""
    files = sorted(KUBERNETES.glob("*.yaml"))
    return [d for path in files if path.name != "kustomization.yaml" for d in documents(path)]


def of_kind(*kinds: str) -> dict[str, Document]:
    return {d["metadata"]["name"]: d for d in manifests() if d["kind"] in kinds}


def pods() -> dict[str, Document]:
    """The templates of all pods, by the name of what makes them."""
    makers = of_kind("Deployment", "StatefulSet", "Job")
    return {name: maker["spec"]["template"] for name, maker in makers.items()}


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
    """Every mapping inside of `value`."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict | list):
        for one in inner:
            yield from walk(one)


def mounts(service: Document) -> dict[str, str]:
    """Of a compose service: path inside → what is mounted there."""
    return {volume.split(":")[1]: volume.split(":")[0] for volume in service.get("volumes", [])}
