"""compose.yaml keeps its promises: who has keys, who is root, who may reach what, and that everything is limited."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from fumehood.domain.token import execution_secret
from fumehood.gateway.keys import VARIABLES

ROOTS = {"run-worker", "watcher"}
ONE_SHOTS = {"migrate", "volumes"}
OURS = {"api", "gateway", "write-worker", *ROOTS, *ONE_SHOTS}
SOCKET = "/var/run/docker.sock"
PROVIDER_KEYS = {variable.lower() for variable in VARIABLES.values()}
NEEDED = {
    "api": "fumehood_api_key fumehood_cursor_secret fumehood_database_url fumehood_redis_url fumehood_s3_secret_key",
    "gateway": "anthropic_api_key aws_bearer_token_bedrock deepseek_api_key fumehood_database_url "
    "fumehood_gateway_secret fumehood_s3_secret_key google_credentials openai_api_key openrouter_api_key",
    "write-worker": "fumehood_database_url fumehood_gateway_secret fumehood_redis_url fumehood_s3_secret_key",
    "run-worker": "fumehood_database_url fumehood_executions_secret fumehood_redis_url fumehood_s3_secret_key",
    "watcher": "fumehood_database_url fumehood_executions_secret fumehood_redis_url fumehood_s3_secret_key",
    "migrate": "fumehood_database_url",
    "volumes": "",
    "postgres": "postgres_password",
    "redis": "redis_conf",
    "minio": "s3_config",
}
NETWORKS = {
    "api": {"data", "front"},
    "gateway": {"data", "outside"},
    "volumes": set(),
    **{name: {"data"} for name in ("write-worker", *ROOTS, "migrate", "postgres", "redis", "minio")},
}


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "compose.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@pytest.fixture(scope="module")
def services(project: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = project["services"]
    return found


@pytest.fixture(scope="module")
def newer_debian(root: Path) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "scripts")
        return importlib.import_module("newer_debian")


@pytest.fixture(scope="module")
def stack_secrets(root: Path) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "scripts")
        return importlib.import_module("stack_secrets")


@pytest.mark.parametrize(
    "files",
    [
        ("compose.yaml",),
        ("compose.yaml", "compose.minio.yaml"),
        ("compose.yaml", "compose.models.yaml"),
        ("compose.yaml", "compose.policy.yaml"),
        ("compose.yaml", "compose.models.yaml", "compose.policy.yaml"),
    ],
)
def test_compose_itself_reads_it(root: Path, newer_debian: ModuleType, files: tuple[str, ...]) -> None:
    command = [newer_debian.compose(), "--env-file", ".env.example", *(word for name in files for word in ("-f", name))]
    environment = {"PATH": os.environ["PATH"], "MINIO_IMAGE": "minio:1", "FUMEHOOD_POLICY": "/etc/policy.toml"}
    environment["FUMEHOOD_MODELS"] = "/etc/models.toml"
    told = subprocess.run([*command, "config", "-q"], cwd=root, env=environment, capture_output=True, text=True)
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def test_whoever_screens_gets_the_policy_and_nobody_else(root: Path, newer_debian: ModuleType) -> None:
    command = [newer_debian.compose(), "--env-file", ".env.example", "-f", "compose.yaml", "-f", "compose.policy.yaml"]
    environment = {"PATH": os.environ["PATH"], "FUMEHOOD_POLICY": "/etc/policy.toml"}
    told = subprocess.run(
        [*command, "config", "--format", "json"], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    services = json.loads(told.stdout)["services"]
    screening = {name for name, one in services.items() if one.get("configs")}
    assert screening == {name for name, one in services.items() if "FUMEHOOD_POLICY" in (one.get("environment") or {})}
    assert screening == {"api", "write-worker"}
    for name in screening:
        assert services[name]["configs"][0]["target"] == services[name]["environment"]["FUMEHOOD_POLICY"]
        assert services[name]["environment"]["FUMEHOOD_S3_ENDPOINT"], "what it had is kept"
    del environment["FUMEHOOD_POLICY"]
    told = subprocess.run([*command, "config"], cwd=root, env=environment, capture_output=True, text=True)
    assert told.returncode != 0
    assert "name the policy's file in FUMEHOOD_POLICY" in told.stderr


def test_whoever_looks_up_models_gets_the_table_and_nobody_else(root: Path, newer_debian: ModuleType) -> None:
    command = [newer_debian.compose(), "--env-file", ".env.example", "-f", "compose.yaml", "-f", "compose.models.yaml"]
    environment = {"PATH": os.environ["PATH"], "FUMEHOOD_MODELS": "/etc/models.toml"}
    told = subprocess.run(
        [*command, "config", "--format", "json"], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    services = json.loads(told.stdout)["services"]
    assert {name for name, one in services.items() if one.get("configs")} == {"api", "gateway"}
    for name in ("api", "gateway"):
        assert services[name]["configs"][0]["target"] == services[name]["environment"]["FUMEHOOD_MODELS"]
        assert services[name]["environment"]["FUMEHOOD_ALLOW_UNPRICED"] == "false"
        assert services[name]["environment"]["FUMEHOOD_S3_ENDPOINT"], "what it had is kept"
    del environment["FUMEHOOD_MODELS"]
    told = subprocess.run([*command, "config"], cwd=root, env=environment, capture_output=True, text=True)
    assert told.returncode != 0
    assert "name the table of models in FUMEHOOD_MODELS" in told.stderr


def test_every_service_is_known_here(services: dict[str, Any]) -> None:
    assert set(services) == set(NEEDED) == set(NETWORKS)


def test_each_service_reads_only_the_secrets_it_needs(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert sorted(service.get("secrets", [])) == NEEDED[name].split(), name


def test_only_the_gateway_has_provider_keys(services: dict[str, Any], text: str) -> None:
    holders = {name for name, service in services.items() if PROVIDER_KEYS & set(service.get("secrets", []))}
    assert holders == {"gateway"}
    assert set(services["gateway"]["secrets"]) >= PROVIDER_KEYS
    assert "_API_KEY:" not in text, "a key in a variable would be shown by `docker inspect`"


def test_no_secret_stands_in_the_file_or_in_a_variable(project: dict[str, Any], services: dict[str, Any]) -> None:
    assert {tuple(secret) for secret in project["secrets"].values()} == {("file",)}
    for name, service in services.items():
        for variable in service.get("environment", {}):
            said = re.search(r"PASSWORD|SECRET|TOKEN|API_KEY|DATABASE_URL|REDIS_URL", variable)
            assert not said or variable.endswith("_FILE"), (name, variable)


def test_every_secret_is_one_that_make_up_makes(project: dict[str, Any], stack_secrets: ModuleType) -> None:
    assert set(project["secrets"]) == set(stack_secrets.SECRETS)
    for name, secret in project["secrets"].items():
        assert secret["file"] == f"${{FUMEHOOD_SECRETS:-./secrets}}/{name}"


def test_only_the_run_side_holds_the_engine(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if SOCKET in str(service)} == ROOTS


def test_only_the_run_side_has_anything_of_the_host(services: dict[str, Any]) -> None:
    shared = {"pid", "ipc", "cgroup", "devices", "device_cgroup_rules", "userns_mode"}
    assert {name for name, service in services.items() if shared & set(service)} == ROOTS
    assert not [name for name, service in services.items() if service.get("privileged")]
    bound = {
        name: [volume for volume in service.get("volumes", []) if is_bind(volume)] for name, service in services.items()
    }
    assert {name for name, found in bound.items() if found} == {*ROOTS, "api"}
    (of_api,) = bound["api"]
    assert of_api["read_only"]
    assert of_api["source"].endswith("/public")


def is_bind(volume: str | dict[str, Any]) -> bool:
    return volume.startswith(("/", ".", "$")) if isinstance(volume, str) else volume["type"] == "bind"


def test_what_the_run_side_mounts_is_seen_by_the_engine(services: dict[str, Any]) -> None:
    for name in ROOTS:
        by_target = {volume["target"]: volume for volume in services[name]["volumes"] if isinstance(volume, dict)}
        for variable in ("FUMEHOOD_STATE_DIR", "FUMEHOOD_RUN_DIR"):
            place = services[name]["environment"][variable]
            assert by_target[place]["source"] == place
            assert by_target[place]["bind"]["propagation"] == "rshared"
        assert services[name]["cgroup"] == "host"


def test_everything_else_has_no_rights(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        if name not in ROOTS:
            assert service.get("cap_add", []) == (["CHOWN"] if name == "volumes" else []), name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert service["user"].startswith("0:") == (name == "volumes"), name


def test_only_the_api_is_published_and_on_this_machine_alone(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if service.get("ports")} == {"api"}
    assert services["api"]["ports"] == ["${FUMEHOOD_PUBLISH:-127.0.0.1:8000}:8000"]


def test_only_the_gateway_reaches_outside(project: dict[str, Any], services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert set(service.get("networks", [])) == NETWORKS[name], name
        assert service.get("network_mode", "none") == "none", name
    networks = project["networks"]
    assert networks["data"]["internal"]
    assert networks["front"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    assert networks["outside"] == {}


def test_everything_is_limited(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert service["logging"]["options"]["max-size"], name


def test_everything_that_stays_is_asked_how_it_is(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if "healthcheck" not in service} == ONE_SHOTS
    assert {name for name, service in services.items() if service["restart"] == "no"} == ONE_SHOTS


def test_everything_waits_until_what_it_needs_is_well(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed in ONE_SHOTS else "service_healthy"
            assert how == {"condition": expected}, (name, needed)


def test_the_example_names_every_variable_with_its_default(root: Path, text: str) -> None:
    used: dict[str, set[str]] = {}
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", text):
        used.setdefault(name, set()).add(default)
    assert set(re.findall(r"\$\{?(\w+)", text)) == set(used), "every variable has a default"
    assert all(len(defaults) == 1 for defaults in used.values()), used
    lines = (root / ".env.example").read_text(encoding="utf-8").splitlines()
    shown = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert shown == {name: min(defaults) for name, defaults in used.items()}


def test_every_image_is_a_variable_with_a_tag(services: dict[str, Any]) -> None:
    for name, service in services.items():
        found = re.fullmatch(r"\$\{[A-Z0-9_]+_IMAGE:-([\w./-]+):([\w.-]+)\}", service["image"])
        assert found, name
        assert (found[2] == "local") == (name in OURS), name
        assert found[2] != "latest", name


def test_secrets_are_strong_agree_and_stay(tmp_path: Path, stack_secrets: ModuleType) -> None:
    if os.geteuid() != 0:
        with pytest.raises(PermissionError):
            stack_secrets.ensure(tmp_path / "secrets")
        return
    folder = tmp_path / "secrets"
    assert stack_secrets.ensure(folder) == list(stack_secrets.SECRETS)
    found = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    assert found["postgres_password"] in found["fumehood_database_url"]
    assert found["fumehood_s3_secret_key"] in found["s3_config"]
    derived = execution_secret(bytes.fromhex(found["fumehood_gateway_secret"]))
    assert found["fumehood_executions_secret"] == derived.hex()
    assert found["fumehood_redis_url"].split(":")[2].partition("@")[0] in found["redis_conf"]
    assert all(len(value) >= 43 for name, value in found.items() if name not in PROVIDER_KEYS)
    assert {oct(path.stat().st_mode & 0o777) for path in [folder, *folder.iterdir()]} == {"0o700", "0o600"}
    readers = {path.name: path.stat().st_uid for path in folder.iterdir()}
    assert {name for name, uid in readers.items() if uid != stack_secrets.OURS} == {"postgres_password"}
    (folder / "redis_conf").unlink()
    assert stack_secrets.ensure(folder) == ["redis_conf", "fumehood_redis_url"], "the rest is not touched"
    assert stack_secrets.ensure(folder) == []
