"""The manifests: against Kubernetes' own schema, against the settings and routes that there are, and as they run."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from jsonschema import Draft202012Validator

from orchestrator.api.app import create_app
from orchestrator.settings import OrchestratorSettings
from tests.forking import run_holdfast
from tests.postgres import Cluster
from tests.servers import ROOT, serving
from tests.waiting import until
from tests.worlds import MemoryWorld

MANIFESTS = ROOT / "ops" / "kubernetes"
FILES = ("config.yaml", "network.yaml", "secrets.example.yaml", "server.yaml", "setup.yaml", "workers.yaml")
SCHEMA = json.loads((ROOT / "tests" / "data" / "kubernetes-1.34.json").read_text(encoding="utf-8"))
SETTINGS = {name.upper() for name in OrchestratorSettings.model_fields}
# After DRAIN_TIMEOUT: answers that are under way (5 s), runs handed back and spans sent (3 s each), and some.
LEAVING_S = 15


def _load(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8")))


def _objects(kind: str) -> dict[str, dict[str, Any]]:
    """The objects of one kind in all files, by name."""
    objects = [each for name in FILES for each in _load(name) if each["kind"] == kind]
    return {each["metadata"]["name"]: each for each in objects}


def _pods() -> dict[str, dict[str, Any]]:
    """What pods are made of, by the name of what makes them."""
    makers = {**_objects("Deployment"), **_objects("Job")}
    return {name: maker["spec"]["template"] for name, maker in makers.items()}


def _container(name: str) -> dict[str, Any]:
    [container] = _pods()[name]["spec"]["containers"]
    return dict(container)


def _environment(name: str) -> dict[str, str]:
    """What a pod's process finds in its environment, with the secrets of the example."""
    container = _container(name)
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        found |= _objects("ConfigMap")[source["configMapRef"]["name"]]["data"]
    for each in container["env"]:
        if "value" in each:
            found[each["name"]] = each["value"]
        else:
            wanted = each["valueFrom"]["secretKeyRef"]
            found[each["name"]] = _objects("Secret")[wanted["name"]]["stringData"][wanted["key"]]
    return found


def _problems(manifest: dict[str, Any]) -> Iterator[str]:
    known = SCHEMA["kinds"][manifest["kind"]]
    if manifest["apiVersion"] != known["apiVersion"]:
        yield f"{manifest['kind']} is of {known['apiVersion']}, not of {manifest['apiVersion']}"
    schema = {"$ref": f"#/$defs/{known['definition']}", "$defs": SCHEMA["$defs"]}
    for error in Draft202012Validator(schema).iter_errors(manifest):
        yield f"{error.json_path}: {error.message}"


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_is_as_kubernetes_takes_it(name: str) -> None:
    for manifest in _load(name):
        assert list(_problems(manifest)) == []


def test_what_kubernetes_would_not_take_is_seen() -> None:
    misspelt, mistyped = _load("server.yaml")[0], _load("server.yaml")[0]
    misspelt["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    mistyped["spec"]["replicas"] = "two"
    assert all(list(_problems(manifest)) for manifest in (misspelt, mistyped))


def test_everything_is_applied_but_the_example_of_secrets() -> None:
    [kustomization] = _load("kustomization.yaml")
    applied = set(kustomization["resources"])
    assert applied | {"kustomization.yaml", "secrets.example.yaml"} == {path.name for path in MANIFESTS.iterdir()}
    assert "secrets.example.yaml" not in applied
    assert {"kustomization.yaml", *FILES} == {path.name for path in MANIFESTS.iterdir()}
    [image] = kustomization["images"]
    assert {_container(name)["image"] for name in _pods()} == {image["name"]}
    released = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert released is not None
    assert image["newTag"] == released[1]


@pytest.mark.parametrize("name", ["holdfast-server", "holdfast-setup", "holdfast-worker"])
def test_pods_set_only_settings_that_exist_and_can_be_read(name: str) -> None:
    environment = _environment(name)
    assert set(environment) <= SETTINGS
    given: dict[str, Any] = {setting.lower(): value for setting, value in environment.items()}
    read = OrchestratorSettings(**given)
    assert read.use_postgres_saver
    assert read.postgres_setup == "verify"
    assert read.log_format == "json"
    # Secrets are in Secrets: their names alone stand in the pods.
    plain = {each["name"] for each in _container(name)["env"] if "value" in each} | set(
        _objects("ConfigMap")["holdfast"]["data"]
    )
    assert not [setting for setting in plain if re.search("PASSWORD|TOKEN|KEY|CONNECTION_STRING", setting)]


@pytest.mark.parametrize("name", ["holdfast-server", "holdfast-setup", "holdfast-worker"])
def test_pods_are_restricted(name: str) -> None:
    pod = _pods()[name]["spec"]
    [of_image] = re.findall(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    rules = pod["securityContext"]
    assert (rules["runAsNonRoot"], rules["runAsUser"]) == (True, int(of_image))
    assert rules["seccompProfile"] == {"type": "RuntimeDefault"}
    assert _container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


async def test_probes_and_ports_are_those_of_the_server() -> None:
    async with MemoryWorld().open() as orchestrator:
        paths = {getattr(route, "path", "") for route in create_app(orchestrator).routes}
        paths |= set(create_app(orchestrator).openapi()["paths"])
    server = _container("holdfast-server")
    [port] = server["ports"]
    assert str(port["containerPort"]) == _environment("holdfast-server")["PORT"]
    asked = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert all(get["path"] in paths and get["port"] == port["name"] for get in asked.values())
    assert asked["liveness"]["path"] == "/api/health/live"
    assert asked["readiness"]["path"] == "/api/health/ready"
    assert server["readinessProbe"]["timeoutSeconds"] > 2  # within which health answers
    [of_service] = _objects("Service")["holdfast"]["spec"]["ports"]
    [rule] = _objects("NetworkPolicy")["holdfast-server"]["spec"]["ingress"]
    assert of_service["targetPort"] == rule["ports"][0]["port"] == port["name"]
    assert _objects("NetworkPolicy")["holdfast-worker"]["spec"]["ingress"][0]["ports"][0]["port"] == "metrics"
    for name, setting in {"holdfast-server": "PORT", "holdfast-worker": "METRICS_PORT"}.items():
        annotations = _pods()[name]["metadata"]["annotations"]
        [port] = _container(name)["ports"]
        assert annotations["prometheus.io/port"] == str(port["containerPort"]) == _environment(name)[setting]
        assert annotations["prometheus.io/path"] in paths


@pytest.mark.parametrize("name", ["holdfast-server", "holdfast-worker"])
def test_a_pod_is_given_the_time_to_stop_that_it_takes(name: str) -> None:
    hook = _container(name).get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
    before_s = float(hook["exec"]["command"][1])
    drain_s = float(_environment(name)["DRAIN_TIMEOUT"])
    assert _pods()[name]["spec"]["terminationGracePeriodSeconds"] >= before_s + drain_s + LEAVING_S


def test_selectors_select() -> None:
    labels = {name: template["metadata"]["labels"] for name, template in _pods().items()}
    for name, deployment in _objects("Deployment").items():
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert [maker for maker in labels if labels[maker].items() >= selector.items()] == [name]
        assert _objects("PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"] == selector
        [spread] = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert spread["labelSelector"]["matchLabels"] == selector
    server = labels["holdfast-server"]
    assert _objects("Service")["holdfast"]["spec"]["selector"] == server
    policies = _objects("NetworkPolicy")
    assert {name: policy["spec"]["podSelector"]["matchLabels"] for name, policy in policies.items()} == labels
    assert policies["holdfast-setup"]["spec"]["ingress"] == []


def _local(name: str, cluster: Cluster, user: str) -> dict[str, str]:
    """A pod's environment as far as it goes on this machine."""
    environment = {**_environment(name), "POSTGRES_CONNECTION_STRING": cluster.dsn(user=user)}
    environment.pop("PORT", None)
    return {**environment, "HOST": "127.0.0.1", "POSTGRES_CONNECT_BACKOFF": "0.05"}


async def test_only_readiness_is_about_the_database_and_the_pods_role_needs_no_more_than_its_grants(
    tmp_path: Path, cluster: Cluster
) -> None:
    [grants] = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8"), re.DOTALL)
    with psycopg.connect(cluster.dsn(), autocommit=True) as owner:
        owner.execute("CREATE ROLE holdfast LOGIN")
    setup = _container("holdfast-setup")["args"]
    environment = {"PYTHONPATH": str(ROOT), **_local("holdfast-setup", cluster, "postgres")}
    done = await asyncio.to_thread(run_holdfast, setup, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(cluster.dsn(), autocommit=True) as owner:
        owner.execute(grants)
    [command] = _container("holdfast-server")["args"]
    probes = {name: _container("holdfast-server")[f"{name}Probe"] for name in ("liveness", "readiness")}
    async with serving(tmp_path, _local("holdfast-server", cluster, "holdfast")) as server:
        assert command == server.command

        async def status(probe: str) -> int:
            return (await server.client.get(probes[probe]["httpGet"]["path"])).status_code

        async def becomes(expected: int) -> bool:
            return await status("readiness") == expected

        await server.start()
        token = _environment("holdfast-server")["API_TOKENS"].partition(":")[0]
        server.client.headers["Authorization"] = f"Bearer {token}"
        run = await server.invoke({"workflow": {"role": "dev", "task": "test the role"}})
        assert (await server.finished(run))["status"] == "completed"
        assert await status("liveness") == 200
        await until(lambda: becomes(200), timeout_s=60, what="it is ready")
        cluster.stop("immediate")
        await until(lambda: becomes(503), timeout_s=60, what="it is not ready without PostgreSQL")
        assert await status("liveness") == 200
        cluster.start()
        await until(lambda: becomes(200), timeout_s=60, what="it is ready again")
        assert await server.stop() == 0
