"""What surrounds the code: locks, scripts, settings files, the Compose file, the README's example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.settings import OrchestratorSettings

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-server.lock")
SHELL_SCRIPTS = (
    "scripts/lib.sh",
    "scripts/demo",
    "scripts/test",
    "scripts/check",
    "scripts/lock",
    "scripts/bench",
    "scripts/docs",
    "scripts/chaos",
    "scripts/lib_files.sh",
    "scripts/lib_operations.sh",
    "scripts/rollback",
    "scripts/rollforward",
    "scripts/export-active",
    "scripts/verify",
    ".ci/run",
)
SETTINGS = {name.upper() for name in OrchestratorSettings.model_fields}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def normal(name: str) -> str:
    """A distribution's name as the locks write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text_of(name), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_lock_names_no_address_and_no_path(name: str) -> None:
    lines = [line for line in text_of(name).splitlines() if not line.strip().startswith("#")]
    assert not [line for line in lines if line.startswith("-") or "://" in line or " @ " in line or "/" in line]


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_of_a_lock_has_hashes(name: str) -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n?", "", text_of(name), flags=re.MULTILINE).strip())
    assert len(entries) > 50
    for entry in entries:
        first, *hashes = entry.replace("\\\n", "\n").splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;]+( ; .+)? ?", first), first
        assert hashes, first
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", line) for line in hashes), first


def test_locks_pin_what_the_project_asks_for() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]

    def named(requirements: list[str]) -> set[str]:
        """The distributions that are asked for, with those of our own extras (`holdfast[server]`) in their place."""
        found = set()
        for item in requirements:
            name = normal(re.split(r"[\[<>=~! ;]", item, maxsplit=1)[0])
            if name == "holdfast":
                inner = re.findall(r"[\w-]+", item)[1:]
                found |= named([each for extra in inner for each in extras[extra]])
            else:
                found.add(name)
        return found

    server = named(project["dependencies"] + extras["server"] + extras["encryption"])
    assert server <= set(pins("requirements-server.lock"))
    assert named(project["dependencies"] + extras["dev"]) <= set(pins("requirements.lock"))


def test_the_server_lock_is_a_part_of_the_lock() -> None:
    assert pins("requirements-server.lock").items() <= pins("requirements.lock").items()


def example_settings() -> dict[str, str]:
    return dict(re.findall(r"^#?([A-Z_]+)=(.*)$", text_of(".env.example"), re.MULTILINE))


def test_env_example_names_exactly_the_settings_there_are() -> None:
    assert set(example_settings()) == SETTINGS


def test_configuration_page_names_exactly_the_settings_there_are() -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|", text_of("docs/configuration.md"), re.MULTILINE)
    assert sorted(rows) == sorted(SETTINGS)


def test_env_example_holds_no_secret_and_shows_the_defaults() -> None:
    for name, value in example_settings().items():
        default = OrchestratorSettings.model_fields[name.lower()].default
        if default is None:
            assert value in {"", "5432"}, name
        elif isinstance(default, float):
            assert float(value) == default, name
        else:
            assert value.lower() == str(default).lower(), name


def test_env_example_changes_nothing() -> None:
    assert not [line for line in text_of(".env.example").splitlines() if line and not line.startswith("#")]


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text_of("docker-compose.yml"))
    return loaded


def test_compose_has_no_default_secret() -> None:
    assert "${POSTGRES_PASSWORD:?" in text_of("docker-compose.yml")
    for service in compose()["services"].values():
        for name, value in service["environment"].items():
            if re.search(r"PASSWORD|TOKEN|SECRET|KEY", name):
                assert re.fullmatch(r"\$\{" + name + r":\?[^}]+\}", value), name


def test_compose_waits_for_a_healthy_database_and_keeps_its_data() -> None:
    services = compose()["services"]
    assert services["app"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert all(service["healthcheck"]["test"][0] == "CMD" for service in services.values())
    assert "/api/health/ready" in str(services["app"]["healthcheck"]["test"])
    volumes = [volume.partition(":") for volume in services["postgres"]["volumes"]]
    assert [(name, target) for name, _, target in volumes] == [("postgres-data", "/var/lib/postgresql")]
    assert set(compose()["volumes"]) == {"postgres-data", "moved-runs"}


def test_compose_publishes_to_this_machine_only() -> None:
    services = compose()["services"]
    assert "ports" not in services["postgres"]
    assert all(port.startswith("127.0.0.1:") for port in services["app"]["ports"])


def test_compose_sets_only_settings_that_exist() -> None:
    environment = compose()["services"]["app"]["environment"]
    assert set(environment) <= SETTINGS
    # On, unless .env says otherwise, as a rollback has it.
    assert environment["USE_POSTGRES_SAVER"] == "${USE_POSTGRES_SAVER:-true}"


def test_image_does_not_run_as_root_and_names_what_it_copies() -> None:
    lines = text_of("Dockerfile").splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001"]
    kept = {line[1:] for line in text_of(".dockerignore").splitlines() if line.startswith("!")}
    copied = {
        name for line in lines if line.startswith("COPY ") and "--from" not in line for name in line.split()[1:-1]
    }
    assert {name.removeprefix("./") for name in copied} == kept


def test_readme_example_runs(tmp_path: Path) -> None:
    """With the memory saver, and with the `builder` that the example takes as given."""
    blocks = re.findall(r"^```python\n(.*?)^```", text_of("README.md"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    imports, _, body = blocks[0].partition("\n\n")
    program = f"""
import asyncio
from typing import TypedDict
from langgraph.graph import START, StateGraph
{imports}

class State(TypedDict):
    count: int

builder = StateGraph(State)
builder.add_node("add", lambda state: {{"count": state["count"] + 1}})
builder.add_edge(START, "add")

async def main():
{"".join(f"    {line}" for line in body.splitlines(keepends=True))}
        config = {{"configurable": {{"thread_id": "one"}}}}
        await graph.ainvoke({{"count": 1}}, config)
        print((await graph.aget_state(config)).values)

asyncio.run(main())
"""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'count': 2}"


def test_links_between_documents_lead_somewhere() -> None:
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    for page in [*pages, *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("name", SHELL_SCRIPTS)
def test_shell_scripts_are_well_formed(name: str) -> None:
    done = subprocess.run(["sh", "-n", str(ROOT / name)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert name.endswith(".sh") or os.access(ROOT / name, os.X_OK)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a directory of their own, with a space in its path and without a `.venv`."""
    copy = tmp_path / "a checkout"
    (copy / "scripts").mkdir(parents=True)
    for name in ("scripts/lib.sh", "scripts/bootstrap.py", "scripts/demo", "scripts/test", "scripts/check"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with the shell's tools and no Python at all."""
    directory = tmp_path / "tools"
    directory.mkdir()
    for name in ("sh", "dirname"):
        found = shutil.which(name)
        assert found
        (directory / name).symlink_to(found)
    return directory


def fake_python(path: Path, version: str) -> None:
    path.write_text(f"#!/bin/sh\necho {version}\n", encoding="utf-8")
    path.chmod(0o755)


def run_script(checkout: Path, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(checkout / "scripts" / name)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )


@pytest.mark.parametrize("name", ["demo", "test", "check"])
def test_scripts_refuse_an_old_python(checkout: Path, tools: Path, name: str) -> None:
    fake_python(tools / "python3", "3.9.2")
    done = run_script(checkout, name, PATH=str(tools))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr
    assert "python3 (3.9.2)" in done.stderr
    assert not (checkout / ".venv").exists()


def test_scripts_say_where_there_is_no_python(checkout: Path, tools: Path) -> None:
    done = run_script(checkout, "test", PATH=str(tools))
    assert done.returncode == 1
    assert "needs Python 3.11 or newer, and PATH has no Python" in done.stderr


def test_an_old_python_that_is_asked_for_is_refused(checkout: Path, tools: Path) -> None:
    fake_python(tools / "mine", "3.10.13")
    done = run_script(checkout, "test", PATH=os.environ["PATH"], PYTHON=str(tools / "mine"))
    assert done.returncode == 1
    assert f"PYTHON={tools / 'mine'} is Python 3.10.13; Holdfast needs 3.11 or newer" in done.stderr


def test_a_package_that_cannot_be_had_is_named(checkout: Path) -> None:
    done = run_script(checkout, "test", PATH=os.environ["PATH"], PYTHON=sys.executable, PIP_NO_INDEX="1")
    assert done.returncode == 1
    assert "pip could not install the packages" in done.stderr
    assert f"pip=={pins('requirements.lock')['pip']}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkout / ".venv" / "holdfast.stamp").exists()


def test_a_half_made_environment_does_not_pass_for_ready(checkout: Path) -> None:
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    command = [sys.executable, str(checkout / "scripts" / "bootstrap.py"), "--is-ready"]
    assert subprocess.run(command, check=False).returncode == 1
