"""deploy/kubernetes, as far as it can be checked without a cluster: manifests match the schemas of
Kubernetes, and names in one manifest exist in another."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.deployed import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    container,
    documents,
    instructions,
    manifests,
    of_kind,
    pods,
    ports,
    walk,
)
from web.ui import custom_components

NOT_APPLIED = {"kustomization.yaml", "load-model.yaml"}  # by `kubectl apply -k`


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_manifests_fit_the_schemas(version: str) -> None:
    for manifest in manifests():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_validation_finds_a_misspelled_field() -> None:
    wrong = {**of_kind("Deployment")["chat"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def test_kustomization_has_all_files_and_git_ignores_the_secrets() -> None:
    (kustomization,) = documents(KUBERNETES / "kustomization.yaml")
    files = {path.name for path in KUBERNETES.glob("*.yaml")} - NOT_APPLIED - {"secret.yaml"}
    expected = files - {"secret.example.yaml"} | {"secret.yaml"}
    assert set(kustomization["resources"]) == expected
    assert len(kustomization["resources"]) == len(expected)
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/kubernetes/secret.yaml" in ignored


@pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="there is no kubectl, nor in CI: run by hand with kubectl 1.32",
)
def test_kubectl_builds_the_kustomization(tmp_path: Path) -> None:
    folder = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, folder)
    shutil.copy(folder / "secret.example.yaml", folder / "secret.yaml")
    done = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = [document for document in yaml.safe_load_all(done.stdout) if document]
    spaces = {d["metadata"].get("namespace") for d in built if d["kind"] != "Namespace"}
    assert spaces == {"linly"}
    assert "image: registry.example.com/linly-chat:cpu" in done.stdout


def test_no_pod_is_root_or_can_write_to_its_image() -> None:
    for name, pod in pods().items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        context = container(name)["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        assert "/tmp" in {m["mountPath"] for m in container(name)["volumeMounts"]}, name  # noqa: S108


def test_pods_run_as_the_image_s_user() -> None:
    users = {name: pods()[name]["spec"]["securityContext"]["runAsUser"] for name in pods()}
    assert instructions(ROOT / "Dockerfile", "USER") == [str(users["chat"])]
    assert instructions(DEPLOY / "router" / "Dockerfile", "USER") == [str(users["router"])]


def test_every_mount_has_its_volume_and_every_claim_its_storage() -> None:
    claims = set(of_kind("PersistentVolumeClaim"))
    for name, pod in pods().items():
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
        templates = of_kind("StatefulSet").get(name, {"spec": {}})["spec"]
        made = {t["metadata"]["name"] for t in templates.get("volumeClaimTemplates", [])}
        mounted = {mount["name"] for mount in container(name)["volumeMounts"]}
        assert mounted == set(volumes) | made, name
        used = [v["persistentVolumeClaim"]["claimName"] for v in volumes.values()
                if "persistentVolumeClaim" in v]  # fmt: skip
        assert set(used) <= claims, name


def test_keys_that_pods_use_are_in_secrets_or_config_maps() -> None:
    existing = {
        **{("secret", n): set(d["stringData"]) for n, d in of_kind("Secret").items()},
        **{("config", n): set(d["data"]) for n, d in of_kind("ConfigMap").items()},
    }
    used: list[tuple[str, str, str | None]] = []
    for found in walk(pods()):
        for field, kind in (("secretKeyRef", "secret"), ("configMapKeyRef", "config")):
            if field in found:
                used.append((kind, found[field]["name"], found[field]["key"]))
        for field, kind in (("secretRef", "secret"), ("configMapRef", "config")):
            if field in found:
                used.append((kind, found[field]["name"], None))
        if "secretName" in found:
            used.append(("secret", found["secretName"], None))
    assert len(used) == 6
    for kind, name, key in used:
        assert (kind, name) in existing
        assert key is None or key in existing[(kind, name)]


def test_services_policies_and_the_address_lead_to_pods() -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}
    for name, service in of_kind("Service").items():
        assert labels[name].items() >= service["spec"]["selector"].items()
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["name"])
            assert ports(name)[target] == port["port"]
    for found in walk(list(of_kind("NetworkPolicy", "PodDisruptionBudget").values())):
        if "app" in found.get("matchLabels", {}):
            assert found["matchLabels"]["app"] in labels
    for name, policy in of_kind("NetworkPolicy").items():
        allowed = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert allowed == set(ports(name).values())
    (path,) = of_kind("Ingress")["chat"]["spec"]["rules"][0]["http"]["paths"]
    backend = path["backend"]["service"]
    (front,) = of_kind("Service")[backend["name"]]["spec"]["ports"]
    assert front["name"] == backend["port"]["name"]


def test_the_router_s_role_allows_it_to_find_vllm_s_pods() -> None:
    args = container("router")["args"]
    key, _, value = args[args.index("--selector") + 1].partition("=")
    assert pods()["vllm"]["metadata"]["labels"][key] == value
    assert int(args[args.index("--service-discovery-port") + 1]) == ports("vllm")["http"]
    (rule,) = of_kind("Role")["router"]["rules"]
    assert (rule["resources"], rule["verbs"]) == (["pods"], ["get", "list", "watch"])
    (subject,) = of_kind("RoleBinding")["router"]["subjects"]
    assert subject["name"] == pods()["router"]["spec"]["serviceAccountName"]


def test_visitors_stay_with_a_pod() -> None:
    service, ingress = of_kind("Service")["chat"], of_kind("Ingress")["chat"]
    assert service["spec"]["sessionAffinity"] == "ClientIP"
    traefik = "traefik.ingress.kubernetes.io/service.sticky.cookie"
    assert service["metadata"]["annotations"][traefik] == "true"
    nginx = "nginx.ingress.kubernetes.io/affinity"
    assert ingress["metadata"]["annotations"][nginx] == "cookie"


READY = {"chat": "/page/chat.js", "vllm": "/health", "router": "/readiness"}


@pytest.mark.parametrize(("name", "path"), READY.items())
def test_pods_have_a_readiness_probe_and_time_to_start(name: str, path: str) -> None:
    ready, start = (container(name)[f"{probe}Probe"] for probe in ("readiness", "startup"))
    assert ready["httpGet"] == {"path": path, "port": "http"}
    assert start["periodSeconds"] * start["failureThreshold"] >= (120 if name == "router" else 3600)
    assert start["httpGet"]["port"] in ports(name)


def test_a_page_without_vllm_stays_alive_and_ready() -> None:
    """Then /health is 503 on every page, and users could read neither their chats nor the error."""
    assert container("chat")["startupProbe"]["httpGet"]["path"] == "/health"
    assert container("chat")["livenessProbe"]["tcpSocket"] == {"port": "http"}
    app = FastAPI()
    app.mount(
        custom_components.ROUTE, custom_components.StaticFilesNoCache()
    )  # as web/server.py has it: no engine, no login
    ready = container("chat")["readinessProbe"]["httpGet"]["path"]
    assert TestClient(app).get(ready).status_code == 200


def test_the_router_has_vllm_s_key() -> None:
    """Routes that load adapters need it (tests/test_router.py)."""
    keys = [
        next(e for e in container(name)["env"] if e["name"] == "VLLM_API_KEY")
        for name in ("vllm", "router")
    ]
    assert keys[0] == keys[1]
    assert "--api-key=$(VLLM_API_KEY)" in container("router")["args"]


def test_prometheus_annotations_name_existing_ports() -> None:
    for name in ("chat", "vllm", "router"):
        notes = pods()[name]["metadata"]["annotations"]
        assert notes["prometheus.io/path"] == "/metrics"
        assert int(notes["prometheus.io/port"]) in ports(name).values()
