"""Every command of docs/runbook.md, run in its order against a real server."""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from orchestrator.cli.app import app
from tests.acceptance.test_metrics_and_ops import ANCHORS
from tests.operations import Cast, Site, site
from tests.servers import ROOT

RUNBOOK = ROOT / "docs/runbook.md"


def blocks(kind: str) -> list[str]:
    """The code blocks of a kind, in their order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)


def test_every_alert_finds_its_part() -> None:
    anchors = {title.replace(" ", "-") for title in re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)}
    assert anchors == ANCHORS
    rules = (ROOT / "ops/prometheus/rules.yml").read_text()
    for alert, anchor in re.findall(r"alert: (\w+).*?runbook\.md#([\w-]+)", rules, re.DOTALL):
        assert re.search(rf"^\|.*\b{alert}\b.*\(#{anchor}\)", RUNBOOK.read_text(), re.MULTILINE), alert
    for link in re.findall(r"\]\(([^)#]+)\)", RUNBOOK.read_text()):
        assert (ROOT / "docs" / link).is_file(), link
    for anchor in re.findall(r"\]\(#([\w-]+)\)", RUNBOOK.read_text()):
        assert anchor in ANCHORS, anchor


def test_commands_that_no_test_can_run_are_well_formed() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for block in blocks("console"):
        assert subprocess.run(["sh", "-n"], input=block, text=True, check=False).returncode == 0, block
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["docker", "compose"]:
                assert words[-1] in services, line
            elif words[0] == "holdfast":
                context = get_command(app).make_context("holdfast", words[1:], resilient_parsing=False)
                assert context is not None
            else:
                # A line of operations.conf.
                name = words[0].partition("=")[0]
                assert (
                    f" {name} " in (ROOT / "scripts/lib_operations.sh").read_text()
                    or f"{name}:-" in (ROOT / "scripts/lib_operations.sh").read_text()
                ), line


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_every_command_does_what_it_is_there_for(postgres_dsn: str, tmp_path: Path) -> None:
    async with site(tmp_path, postgres_dsn) as place:
        environment = _prepared(place)
        await place.start()
        cast = Cast(place, "only")
        await cast.appear()
        # The run that stuck runs are about is resumed and cancelled there.
        (tmp_path / "outage-stuck").touch()
        environment["RUN_ID"] = await place.begin("shaky", "stuck")
        await place.comes_to(environment["RUN_ID"], "suspended")
        said = {}
        for line in (line for block in blocks("sh") for line in block.splitlines()):
            if line.startswith("holdfast restore"):
                await place.stop()
            said[line] = await _run(line, place, environment)
        assert "OK rollback" in said["./scripts/rollback"]
        assert "OK rollforward" in said["./scripts/rollforward"]
        assert "dry run" in said["./scripts/rollback --dry-run"]
        assert said["holdfast runs reclaim --dry-run"].startswith("0 runs")
        assert "cancelled" in said['holdfast runs cancel "$RUN_ID"']
        assert '"MemorySaver"' in said['holdfast health --url "$URL" --json']
        # All is restored from when the runs were unfinished, before anything was rolled back.
        await place.start()
        assert await place.saver() == "PostgresSaver"
        await cast.end()


def _prepared(place: Site) -> dict[str, str]:
    """The checkout's scripts, what they need to know, and what stands for names in the runbook."""
    (place.directory / "scripts").symlink_to(ROOT / "scripts")
    conf = place.directory / "operations.conf"
    conf.write_text(f"STOP_COMMAND={shlex.quote(place.command('stop'))}\n")
    with conf.open("a") as file:
        file.write(f"START_COMMAND={shlex.quote(place.command('start'))}\n")
    names = {"URL": place.url, "MOVED_RUNS": str(place.file)}
    names |= {name: str(place.directory / name.lower()) for name in ("BACKUP", "COPY")}
    return {**place.environment, **names, "OPERATIONS_CONF": str(conf), "NO_COLOR": "1"}


async def _run(line: str, place: Site, environment: dict[str, str]) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        ["sh", "-euc", line],
        cwd=place.directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}\n{place.log[-3000:]}"
    return done.stdout
