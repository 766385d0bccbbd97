"""What is exported by real processes, and that ops/ and `holdfast doctor` go with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from orchestrator.cli.doctor import examine_all
from orchestrator.cli.worker_metrics import metrics_served
from orchestrator.errors import RemoteError, ServeError
from orchestrator.health.local import check_graphs, check_settings, read_settings
from tests.forking import run_holdfast
from tests.postgres import free_port
from tests.servers import ROOT, Server, Worker, serving
from tests.waiting import until

OPS = ROOT / "ops"
AGENT = {"workflow": {"role": "dev", "task": "be counted"}}
# DESIGN, section 9.
PROMISED = {
    "checkpointer_backend_info",
    "checkpointer_save_seconds",
    "checkpointer_load_seconds",
    "checkpointer_errors_total",
    "checkpointer_retries_total",
    "checkpointer_batch_saves",
    "checkpointer_checkpoint_bytes",
    "checkpointer_fenced_writes_total",
    "checkpointer_pool_connections",
    "checkpointer_storage_bytes",
    "orchestrator_runs_total",
    "orchestrator_runs",
    "orchestrator_run_seconds",
    "orchestrator_activity_seconds",
    "orchestrator_queue_wait_seconds",
    "orchestrator_recoveries_total",
    "orchestrator_recovery_seconds",
    "orchestrator_leases_lost_total",
    "orchestrator_watchers",
}
OF_A_DATABASE = {"checkpointer_pool_connections", "checkpointer_storage_bytes"}
# Prometheus's own.
BUILT_IN = {"up", "ALERTS"}
ANCHORS = {
    "connection-refused", "schema-missing", "pool-exhausted", "slow-saves", "growth", "stuck-runs", "bad-deploy",
    "failed-migration", "rollback", "restore", "memory-saver",
}  # fmt: skip


def _names(text: str) -> set[str]:
    """The names of metrics with at least one sample."""
    found = {re.split(r"[ {]", line, maxsplit=1)[0] for line in text.splitlines() if line and not line.startswith("#")}
    return found | {re.sub(r"_(bucket|count|sum)$", "", name) for name in found}


async def _scraped(server: Server) -> set[str]:
    answer = await server.client.get("/metrics")
    assert answer.status_code == 200
    return _names(answer.text)


async def _all_of(server: Server, wanted: set[str]) -> set[str]:
    """What is exported once that is among it: what a run's end adds comes a moment after the end."""

    async def exported() -> Any:
        found = await _scraped(server)
        return None if wanted - found else found

    found: set[str] = await until(exported, timeout_s=60, what=f"all of {sorted(wanted)} is exported")
    return found


def _durable(dsn: str) -> dict[str, str]:
    return {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": dsn}


def _expressions(of: Any) -> Iterator[str]:
    """Every PromQL expression in a file of rules or a dashboard."""
    if isinstance(of, dict):
        for key, value in of.items():
            if key == "expr":
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(of, list):
        for each in of:
            yield from _expressions(each)


def _asked(expression: str) -> set[str]:
    """The metrics that an expression names."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:checkpointer_\w+|orchestrator_\w+|process_\w+|up|ALERTS)\b", bare))


def _rules() -> list[dict[str, Any]]:
    loaded = yaml.safe_load((OPS / "prometheus/rules.yml").read_text())
    return [rule for group in loaded["groups"] for rule in group["rules"]]


def _dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((OPS / "grafana/dashboards/holdfast.json").read_text())
    return loaded


async def test_what_design_promises_and_ops_asks_for_is_exported(postgres_dsn: str, tmp_path: Path) -> None:
    async with serving(tmp_path, _durable(postgres_dsn)) as server:
        await server.start()
        run = await server.finished(await server.invoke(AGENT))
        assert run["status"] == "completed"
        exported = await _all_of(server, PROMISED)
        assert "orchestrator_queue_wait_seconds_count 1.0" in (await server.client.get("/metrics")).text
        for expression in _expressions([_rules(), _dashboard()]):
            asked = _asked(expression)
            assert asked, expression
            assert asked - exported - BUILT_IN == set(), expression


async def test_in_memory_everything_is_exported_that_needs_no_database(tmp_path: Path) -> None:
    async with serving(tmp_path, {}) as server:
        await server.start()
        await server.finished(await server.invoke(AGENT))
        await _all_of(server, PROMISED - OF_A_DATABASE)
        assert 'checkpointer_backend_info{backend="memory"} 1' in (await server.client.get("/metrics")).text


async def test_a_worker_is_scraped_where_it_is_told_to_be(postgres_dsn: str, tmp_path: Path) -> None:
    port = free_port()
    worker = Worker(tmp_path, {**_durable(postgres_dsn), "METRICS_PORT": str(port)})
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        try:
            await worker.start()
            answer = await client.get(f"http://127.0.0.1:{port}/metrics")
            expected = {"checkpointer_backend_info", "checkpointer_save_seconds", "checkpointer_pool_connections"}
            assert expected <= _names(answer.text)
            with pytest.raises(ServeError, match=f"METRICS_PORT={port} can't be served"), metrics_served(port):
                pass
            assert await worker.stop() == 0
        finally:
            await worker.close()
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{port}/metrics")


def test_every_alert_says_what_is_wrong_and_leads_into_the_runbook() -> None:
    names = [rule["alert"] for rule in _rules()]
    assert len(set(names)) == len(names) >= 12
    for rule in _rules():
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}, rule["alert"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (page, rule["labels"]["severity"] in {"warning", "critical"}) == ("docs/runbook.md", True)
        assert anchor in ANCHORS, rule["alert"]


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tests = yaml.safe_load((OPS / "prometheus/rules_test.yml").read_text())["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {rule["alert"] for rule in _rules()}


@cache
def _promtool() -> str | None:
    """The program; installed from the distribution where that is possible."""
    if (found := shutil.which("promtool")) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["apt-get", "install", "-y", "--no-install-recommends", "prometheus"],
            check=False,
            timeout=150,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        found = shutil.which("promtool")
    return found


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")],
    ids=["config", "rules", "tests"],
)
def test_promtool_is_content(arguments: tuple[str, ...]) -> None:
    program = _promtool()
    if program is None:
        pytest.skip("promtool is not here and can't be installed: put it (Debian's package `prometheus`) on the PATH")
    done = subprocess.run(
        [program, *arguments], cwd=OPS / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_provisioned() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    mounts = [volume.split(":")[:2] for name in ("prometheus", "grafana") for volume in compose[name]["volumes"]]
    inside = {target: ROOT / source for source, target in mounts}
    assert all(source.exists() for source in inside.values())
    provisioning = inside["/etc/grafana/provisioning"]
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    [provider] = yaml.safe_load((provisioning / "dashboards/holdfast.yml").read_text())["providers"]
    assert (inside[provider["options"]["path"]] / "holdfast.json").is_file()
    dashboard = _dashboard()
    used = {target["datasource"]["uid"] for panel in dashboard["panels"] for target in panel.get("targets", ())}
    assert used == {source["uid"]}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    # Panels lie side by side, and not on top of each other.
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_what_prometheus_scrapes_is_what_compose_runs() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    server, workers = yaml.safe_load((OPS / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert server["static_configs"][0]["targets"] == [f"app:{compose['app']['environment']['PORT']}"]
    [names] = workers["dns_sd_configs"]
    assert names["names"] == ["worker"]
    assert str(names["port"]) == compose["worker"]["environment"]["METRICS_PORT"]
    profiles = {name: service.get("profiles", []) for name, service in compose.items()}
    assert profiles == {
        "postgres": [],
        "app": ["app"],
        "worker": ["app"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }
    for service in compose.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def _doctor(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "200"} | environment
    return run_holdfast(["doctor", *arguments], cwd=directory, env=given)


def _found(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_the_doctor_finds_a_sound_database(postgres_dsn: str, tmp_path: Path) -> None:
    done = _doctor(tmp_path, "--json", **_durable(postgres_dsn))
    assert (done.returncode, done.stderr) == (0, "")
    checks = _found(done)
    assert {"settings", "extras", "engine", "checkpoint", "schema", "tables", "queue", "runners"} <= set(checks)
    assert "fail" not in {check["state"] for check in checks.values()}
    # A machine that is busy may be slow at these.
    warned = {name for name, check in checks.items() if check["state"] == "warn"} - {"checkpoint", "pool"}
    assert warned == {"runners", "retention"}


def test_the_doctor_can_not_reach_the_database(tmp_path: Path) -> None:
    done = _doctor(tmp_path, **_durable("postgresql://me:hush@127.0.0.1:1/x"))
    assert (done.returncode, done.stderr) == (1, "")
    assert "engine: start PostgreSQL there" in done.stdout
    assert "unhealthy: 1 failed" in done.stdout
    assert "hush" not in done.stdout


def test_the_doctor_names_mistakes_in_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("POSTGRES_PASSWORD=hush\nCHECKPOINT_STORRAGE=shared\n")
    env_file.chmod(0o644)
    monkeypatch.setenv("POSTGRES_HOST", "127.0.0.1")
    settings, read = read_settings()
    assert settings is not None
    assert read.state == "ok"
    found = {finding.name: finding for finding in check_settings(settings)}
    assert {name: finding.state for name, finding in found.items()} == dict.fromkeys(("flag", "names", ".env"), "warn")
    assert found["names"].remedy == "did you mean CHECKPOINT_STORAGE?"
    assert "USE_POSTGRES_SAVER=true" in str(found["flag"].remedy)
    assert "hush" not in repr(found)
    monkeypatch.setenv("USE_POSTGRES_SAVER", "maybe")
    settings, read = read_settings()
    assert (settings, read.state) == (None, "fail")
    assert "USE_POSTGRES_SAVER='maybe'" in read.message


def test_the_doctor_looks_at_the_graphs(tmp_path: Path) -> None:
    assert list(check_graphs(None)) == []
    file = tmp_path / "langgraph.json"
    file.write_text('{"graphs": {"a": "./nowhere.py:graph"}}')
    [finding] = check_graphs(None)
    assert (finding.state, "nowhere.py" in finding.message) == ("fail", True)
    (tmp_path / "nowhere.py").write_text("graph = 1")
    assert [finding.state for finding in check_graphs(file)] == ["ok"]


async def test_the_doctor_asks_a_server(
    postgres_dsn: str, tmp_path: Path, conn: psycopg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    async with serving(tmp_path, {**_durable(postgres_dsn), "API_TOKENS": "secret:acme"}) as server:
        await server.start()
        address = str(server.client.base_url)
        with pytest.raises(RemoteError, match=r"answered 401: .*--token or HOLDFAST_TOKEN"):
            await examine_all(address, None, None, as_json=True)
        assert await examine_all(address, "secret", None, as_json=False) == 0
        assert re.search(r"^ok +loads ", capsys.readouterr().out, re.MULTILINE)
        conn.execute("DROP TABLE workflow_checkpoints.checkpoint_blobs CASCADE")
        assert await examine_all(address, "secret", None, as_json=True) == 1
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
        assert checks["checkpoint"]["state"] == "fail"


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match="can't be served"), metrics_served(port):
            pass
