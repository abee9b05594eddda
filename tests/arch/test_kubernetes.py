"""What kustomize renders is what a strict API server takes, keeps Pod Security `restricted`, and lets nobody out."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from fumehood.gateway.keys import VARIABLES

VERSIONS = ("1.28", "1.32", "1.37")
PLATFORM, RUN = "fumehood", "fumehood-run"
NAMES = "names"
"""The cluster's name service, as somebody to reach."""
PUBLIC = "public addresses:443"
REACHES = {
    "api": {"minio:9000", "postgres:5432", "redis:6379", NAMES},
    "gateway": {"minio:9000", "postgres:5432", NAMES, PUBLIC},
    "write-worker": {"gateway:8010", "minio:9000", "postgres:5432", "redis:6379", NAMES},
    "run": {"gateway:8010", "minio:9000", "postgres:5432", "redis:6379", NAMES},
    "postgres": set(),
    "redis": set(),
    "minio": set(),
}
"""Whom each part may call; nothing else."""
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected"}
RESTRICTED_VOLUMES |= {"secret"}

Object = dict[str, Any]


@pytest.fixture(scope="module")
def rendered(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """The example's overlay, with secrets made for it, as kustomize renders it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "scripts")
        newer_debian = importlib.import_module("newer_debian")
        stack_secrets = importlib.import_module("stack_secrets")
    newer_debian.ensure("kustomize")
    copy = tmp_path_factory.mktemp("kubernetes") / "k8s"
    shutil.copytree(root / "k8s", copy, ignore=shutil.ignore_patterns("secrets"))
    stack_secrets.ensure(copy / "overlays/example/secrets", hand_over=False)
    return build(copy / "overlays/example")


def build(overlay: Path) -> list[Object]:
    """Return the objects of an overlay; its kustomize was fetched."""
    told = subprocess.run(
        [Path(__file__).parents[2] / ".setup/bin/kustomize", "build", overlay], capture_output=True, text=True
    )
    assert (told.returncode, told.stderr) == (0, "")
    return list(yaml.safe_load_all(told.stdout))


@pytest.mark.usefixtures("rendered")
def test_an_overlay_brings_the_table_of_models_to_those_who_look_it_up(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("secrets"))
    overlay = tmp_path / "k8s/overlays/priced"
    overlay.mkdir()
    (overlay / "models.toml").write_text("[models]\n", encoding="utf-8")
    told = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../base"],
        "components": ["../../components/models"],
        "configMapGenerator": [{"name": "models", "namespace": PLATFORM, "files": ["models.toml"]}],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    objects = build(overlay)
    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    maps = {one["metadata"]["name"]: one["data"] for one in objects if one["kind"] == "ConfigMap"}
    mounted = {}
    for one in objects:
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        for volume in pod.get("volumes", []):
            if volume["name"] == "models":
                mounted[one["metadata"]["name"]] = pod
                assert maps[volume["configMap"]["name"]] == {"models.toml": "[models]\n"}
    assert set(mounted) == {"api", "gateway"}
    for pod in mounted.values():
        (container,) = pod["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "models"]
        (settings,) = [maps[one["configMapRef"]["name"]] for one in container["envFrom"]]
        assert settings["FUMEHOOD_MODELS"] == f"{mount['mountPath']}/models.toml"
        assert settings["FUMEHOOD_S3_ENDPOINT"], "what it had is kept"
        assert mount["readOnly"]


@pytest.mark.usefixtures("rendered")
def test_an_overlay_brings_the_admin_s_policy_to_those_who_screen(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("secrets"))
    overlay = tmp_path / "k8s/overlays/screened"
    overlay.mkdir()
    (overlay / "policy.toml").write_text("[[rule]]\n", encoding="utf-8")
    told = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../../base"],
        "components": ["../../components/policy"],
        "configMapGenerator": [{"name": "policy", "namespace": PLATFORM, "files": ["policy.toml"]}],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    objects = build(overlay)
    for one in objects:
        kubernetes_validate.validate(one, VERSIONS[-1], strict=True)
    (made,) = [one for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("policy-")]
    assert made["data"] == {"policy.toml": "[[rule]]\n"}
    screening = {}
    for one in objects:
        pod = one.get("spec", {}).get("template", {}).get("spec", {})
        for volume in pod.get("volumes", []):
            if volume["name"] == "policy":
                screening[one["metadata"]["name"]] = pod
                assert volume["configMap"]["name"] == made["metadata"]["name"]
    assert set(screening) == {"api", "write-worker"}
    for pod in screening.values():
        (container,) = pod["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "policy"]
        assert container["env"] == [{"name": "FUMEHOOD_POLICY", "value": f"{mount['mountPath']}/policy.toml"}]
        assert mount["readOnly"]


@pytest.fixture(scope="module")
def workloads(rendered: list[Object]) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in rendered if one["kind"] in {"Deployment", "StatefulSet"}}


@pytest.fixture(scope="module")
def pods(workloads: dict[str, Object]) -> dict[str, Object]:
    return {name: one["spec"]["template"] for name, one in workloads.items()}


def containers(pod: Object) -> Iterator[Object]:
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        yield from pod["spec"].get(kind, [])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_strict_api_server_takes_every_object(rendered: list[Object], version: str) -> None:
    for one in rendered:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelt_field_would_be_found(rendered: list[Object]) -> None:
    wrong = {**rendered[0], "metadatum": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_parts_are_those_of_compose(root: Path, workloads: dict[str, Object]) -> None:
    services = set(yaml.safe_load((root / "compose.yaml").read_text(encoding="utf-8"))["services"])
    assert set(workloads) == set(REACHES)
    inside = {one["name"] for one in containers(workloads["run"]["spec"]["template"])}
    assert inside == {"run-worker", "watcher"}
    # Tables are made by whoever starts first, and volumes are given to their users by the kubelet.
    assert services == (set(workloads) - {"run"}) | inside | {"migrate", "volumes"}


def not_restricted(pod: Object) -> list[str]:
    """Return where a pod breaks the Pod Security Standard `restricted`."""
    spec, found = pod["spec"], []
    whole = spec.get("securityContext", {})
    found += [name for name in ("hostPID", "hostIPC", "hostNetwork") if spec.get(name)]
    found += [f"volume {one['name']}" for one in spec.get("volumes", []) if not RESTRICTED_VOLUMES & set(one)]
    for one in containers(pod):
        own = one.get("securityContext", {})
        said = {**whole, **own}
        capabilities = own.get("capabilities", {})
        wrong = {
            "privileged": own.get("privileged", False),
            "escalation": own.get("allowPrivilegeEscalation") is not False,
            "root": said.get("runAsNonRoot") is not True or said.get("runAsUser", 1) == 0,
            "seccomp": said.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"},
            "capabilities": capabilities.get("drop") != ["ALL"]
            or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "procMount": own.get("procMount", "Default") != "Default",
            "host port": any("hostPort" in port for port in one.get("ports", [])),
            "sysctls": bool(whole.get("sysctls")),
        }
        found += [f"{one['name']}: {name}" for name, is_wrong in wrong.items() if is_wrong]
    return found


def test_everything_but_the_run_side_is_restricted(rendered: list[Object], workloads: dict[str, Object]) -> None:
    for name, one in workloads.items():
        assert one["metadata"]["namespace"] == (RUN if name == "run" else PLATFORM)
        assert bool(not_restricted(one["spec"]["template"])) == (name == "run"), name
    spaces = {one["metadata"]["name"]: one["metadata"]["labels"] for one in rendered if one["kind"] == "Namespace"}
    enforced = {name: labels["pod-security.kubernetes.io/enforce"] for name, labels in spaces.items()}
    assert enforced == {PLATFORM: "restricted", RUN: "privileged"}


def test_the_check_of_restricted_finds_what_is_not(pods: dict[str, Object]) -> None:
    pod: Object = yaml.safe_load(yaml.safe_dump(pods["api"]))
    pod["spec"]["hostPID"] = True
    pod["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/"}})
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    found = not_restricted(pod)
    assert {"hostPID", "volume host", "api: privileged", "api: escalation", "api: capabilities"} == set(found)


def test_no_pod_has_a_token_of_the_cluster(rendered: list[Object], pods: dict[str, Object]) -> None:
    accounts = {one["metadata"]["name"]: one for one in rendered if one["kind"] == "ServiceAccount"}
    assert set(accounts) == set(pods)
    assert not any(one["automountServiceAccountToken"] for one in accounts.values())
    for name, pod in pods.items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        assert pod["spec"]["serviceAccountName"] == name
        assert pod["spec"]["enableServiceLinks"] is False, name
    assert not [one for one in rendered if "Role" in one["kind"]]


def test_every_container_is_limited_and_asked_how_it_is(pods: dict[str, Object]) -> None:
    for pod in pods.values():
        for one in containers(pod):
            assert set(one["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}, one["name"]
            assert set(one["resources"]["requests"]) == {"cpu", "memory"}, one["name"]
            assert one["livenessProbe"], one["name"]
            assert one["securityContext"]["readOnlyRootFilesystem"], one["name"]
            assert re.fullmatch(r"[\w./-]+:(?!latest$)[\w.-]+", one["image"]), one["image"]
        assert all(volume["emptyDir"].get("sizeLimit") for volume in pod["spec"]["volumes"] if "emptyDir" in volume)


def test_only_the_gateway_has_provider_keys_and_the_run_side_no_secret_of_models(
    rendered: list[Object], pods: dict[str, Object], root: Path
) -> None:
    kept = {one["metadata"]["name"]: set(one["data"]) for one in rendered if one["kind"] == "Secret"}
    mounted = {
        name: {
            key
            for volume in pod["spec"]["volumes"]
            if "secret" in volume
            for key in kept[volume["secret"]["secretName"]]
        }
        for name, pod in pods.items()
    }
    services = yaml.safe_load((root / "compose.yaml").read_text(encoding="utf-8"))["services"]
    assert mounted.pop("run") == set(services["run-worker"]["secrets"])
    assert mounted == {name: set(services[name]["secrets"]) for name in mounted}
    provider_keys = {variable.lower() for variable in VARIABLES.values()}
    assert {name for name, keys in mounted.items() if provider_keys & keys} == {"gateway"}


def test_only_the_run_side_has_anything_of_the_node(pods: dict[str, Object]) -> None:
    of_node = {name for name, pod in pods.items() if any("hostPath" in one for one in pod["spec"]["volumes"])}
    assert of_node == {"run"}


def policies(rendered: list[Object], namespace: str) -> list[Object]:
    found = [one for one in rendered if one["kind"] == "NetworkPolicy"]
    return [one["spec"] for one in found if one["metadata"]["namespace"] == namespace]


def chosen(selector: Object, name: str) -> bool:
    """Tell whether a pod of that name is meant; what this test does not know is an error."""
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    if not selector:
        return True
    wanted = selector.get("matchLabels", {})
    if wanted and wanted != {"app.kubernetes.io/name": name}:
        return False
    for one in selector.get("matchExpressions", []):
        assert (one["key"], one["operator"]) == ("app.kubernetes.io/name", "In")
        if name not in one["values"]:
            return False
    return True


def places(rule: Object, namespace: str) -> Iterator[str]:
    """Say where a rule of egress leads; a rule without a destination or a port leads everywhere."""
    assert rule.get("to"), "everywhere"
    assert rule.get("ports"), "at any port"
    for peer in rule["to"]:
        space = peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name", namespace)
        pod = peer.get("podSelector", {}).get("matchLabels", {})
        if "ipBlock" in peer:
            private = {
                "10.0.0.0/8",
                "100.64.0.0/10",
                "127.0.0.0/8",
                "169.254.0.0/16",
                "172.16.0.0/12",
                "192.168.0.0/16",
            }
            assert peer["ipBlock"]["cidr"] == "0.0.0.0/0"
            assert private <= set(peer["ipBlock"]["except"])
            assert rule["ports"] == [{"port": 443}]
            yield PUBLIC
        elif (space, pod) == ("kube-system", {"k8s-app": "kube-dns"}):
            assert {(port["port"], port["protocol"]) for port in rule["ports"]} == {(53, "UDP"), (53, "TCP")}
            yield NAMES
        else:
            assert space == PLATFORM, peer
            assert set(pod) == {"app.kubernetes.io/name"}, peer
            yield from (f"{pod['app.kubernetes.io/name']}:{port['port']}" for port in rule["ports"])


@pytest.mark.parametrize("namespace", [PLATFORM, RUN])
def test_nothing_is_allowed_that_is_not_said(rendered: list[Object], namespace: str) -> None:
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in policies(rendered, namespace)


def test_nobody_gets_out_but_to_what_it_needs(rendered: list[Object], workloads: dict[str, Object]) -> None:
    for name, one in workloads.items():
        namespace = one["metadata"]["namespace"]
        of_it = [spec for spec in policies(rendered, namespace) if chosen(spec["podSelector"], name)]
        rules = [rule for spec in of_it for rule in spec.get("egress", [])]
        assert {place for rule in rules for place in places(rule, namespace)} == REACHES[name], name


def test_whoever_is_called_lets_in_who_calls_and_nobody_else(rendered: list[Object]) -> None:
    expected: dict[str, set[str]] = defaultdict(set)
    for caller, reached in REACHES.items():
        for place in reached - {NAMES, PUBLIC}:
            expected[place].add(caller)
    found: dict[str, set[str]] = {}
    for spec in policies(rendered, PLATFORM):
        for rule in spec.get("ingress", []):
            name = spec["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
            peers = [peer.get("podSelector", {}).get("matchLabels", {}) for peer in rule["from"]]
            found[f"{name}:{rule['ports'][0]['port']}"] = {
                peer.get("app.kubernetes.io/name", "people") for peer in peers
            }
    assert found == {**expected, "api:8000": {"people"}}
    assert not [spec for spec in policies(rendered, RUN) if spec.get("ingress")]


def test_every_service_leads_to_a_port_that_listens(rendered: list[Object], pods: dict[str, Object]) -> None:
    for one in (one for one in rendered if one["kind"] == "Service"):
        name = one["spec"]["selector"]["app.kubernetes.io/name"]
        (port,) = one["spec"]["ports"]
        ports = [port for container in containers(pods[name]) for port in container["ports"]]
        assert ports == [{"name": port["targetPort"], "containerPort": port["port"]}]
