"""`scripts/rollback` and `scripts/rollforward` with real servers: runs in every state, and kills at every step."""

from __future__ import annotations

from pathlib import Path

import pytest
from dotenv import dotenv_values

from orchestrator.moves.file import summary_of
from tests.operations import Cast, Site, site


def settings_of(place: Site) -> dict[str, str | None]:
    """What the env file says."""
    return dict(dotenv_values(place.env_file))


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_killed_at_every_step_both_ways(postgres_dsn: str, tmp_path: Path) -> None:
    async with site(tmp_path, postgres_dsn) as place:
        before = settings_of(place)
        await place.start()
        first, second = Cast(place, "first"), Cast(place, "second")
        await first.appear()
        await second.appear()
        for step in ("check", "export", "flag", "stop", "late", "start"):
            await place.kill_at(step, "rollback", *place.halves)
        # Whether the server was started is chance; stopped again, the next one comes to the last steps.
        for step in ("health", "runs"):
            await place.stop()
            await place.kill_at(step, "rollback", *place.halves)
        done = await place.run("rollback", *place.halves)
        assert (done.code, done.verdict.split(" in ")[0]) == (0, "OK rollback"), done.output + place.log
        assert await place.saver() == "MemorySaver"
        assert summary_of(place.file).total == 10
        assert settings_of(place) == {**before, "USE_POSTGRES_SAVER": "false", "MEMORY_SNAPSHOT": str(place.file)}
        assert oct(place.env_file.stat().st_mode & 0o777) == "0o600"
        await second.is_as_before()
        await first.end()
        begun = await place.begin("asking", "begun in memory")
        await place.comes_to(begun, "waiting")

        for step in ("check", "stop", "import", "flag", "start"):
            await place.kill_at(step, "rollforward", *place.halves)
        await place.stop()
        await place.kill_at("health", "rollforward", *place.halves)
        await place.kill_at("reclaim", "rollforward", *place.halves)
        done = await place.run("rollforward", *place.halves)
        assert (done.code, done.verdict.split(" in ")[0]) == (0, "OK rollforward"), done.output + place.log
        assert settings_of(place) == before
        assert await place.saver() == "PostgresSaver"
        await first.has_ended()
        await second.end()
        await place.tell(begun, "signals/go", "in PostgreSQL")
        assert (await place.comes_to(begun, "completed"))["output"]["trace"] == ["in PostgreSQL"]


async def test_with_nothing_but_a_restart_and_dry_runs_that_change_nothing(postgres_dsn: str, tmp_path: Path) -> None:
    async with site(tmp_path, postgres_dsn) as place:
        restart = ["--restart", place.command("restart")]
        await place.start()
        cast = Cast(place, "only")
        await cast.appear()
        pid = (tmp_path / "pid").read_text()
        text = place.env_file.read_text()
        dry = await place.run("rollback", *restart, "--dry-run")
        assert (dry.code, "5 runs" in dry.output, "dry run" in dry.verdict) == (0, True, True), dry.output
        assert ((tmp_path / "pid").read_text(), place.env_file.read_text()) == (pid, text)
        assert not place.file.exists()
        done = await place.run("rollback", *restart)
        assert done.code == 0, done.output + place.log
        await cast.is_as_before()
        done = await place.run("rollforward", *restart)
        assert done.code == 0, done.output + place.log
        assert "back in PostgreSQL: 5 runs" in done.output
        await cast.end()


async def test_a_lost_file_is_not_made_up_for_unasked(postgres_dsn: str, tmp_path: Path) -> None:
    async with site(tmp_path, postgres_dsn) as place:
        await place.start()
        cast = Cast(place, "only")
        await cast.appear()
        await place.stop()
        # As a rollback leaves it whose server has crashed, and whose file is gone.
        await place.holdfast("runs", "export", "--active", "--leave", str(place.file))
        text = place.env_file.read_text()
        place.env_file.write_text(text.replace("=true", "=false") + f"MEMORY_SNAPSHOT={place.file}\n")
        place.file.unlink()
        done = await place.run("rollforward", *place.halves)
        assert (done.code, "--reclaim" in done.verdict) == (1, True), done.output
        assert done.verdict.startswith("FAILED rollforward at step 3 (import): ")
        done = await place.run("rollforward", "--reclaim", *place.halves)
        assert done.code == 0, done.output
        await cast.end()


@pytest.mark.parametrize("script", ["rollback", "rollforward"])
async def test_what_is_missing_is_said_before_anything_is_done(tmp_path: Path, script: str) -> None:
    async with site(tmp_path, "host=127.0.0.1 port=1 dbname=nowhere", {"POSTGRES_CONNECT_ATTEMPTS": "1"}) as place:
        for arguments, said in {
            (): "--service, --stop with --start, or --restart",
            ("--service", "upstart"): "not upstart",
            ("--env-file", "none.env"): "there is no none.env",
            ("--stop", "true"): "go together",
            ("--sideways",): "no option --sideways",
        }.items():
            done = await place.run(script, *arguments)
            assert (done.code, said in done.verdict) == (2, True), done.output
        text = place.env_file.read_text()
        done = await place.run(script, *place.halves)
        assert (done.code, done.verdict.startswith(f"FAILED {script} at step 1 (check): PostgreSQL")) == (1, True)
        assert place.env_file.read_text() == text
        place.env_file.write_text("PORT=1\n")
        assert "does not say" in (await place.run(script, *place.halves)).verdict
