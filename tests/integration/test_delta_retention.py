"""Pruning DeltaChannels: which ancestors one needs is not the same for each channel and each checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from checkpointer import PooledPostgresSaver, open_postgres_saver
from tests.checkpoints import at, history, values_of


@pytest.fixture
async def saver(postgres_dsn: str) -> AsyncIterator[PooledPostgresSaver]:
    async with open_postgres_saver(postgres_dsn) as opened:
        yield opened


async def chain(
    saver: PooledPostgresSaver, snapshots: Sequence[str], *, runs: Sequence[str] | None = None
) -> list[Any]:
    """Checkpoints in a row, each with a snapshot of the channels named for it, and a write to each channel."""
    config, configs = at("t"), []
    for step, names in enumerate(snapshots):
        made = empty_checkpoint()
        made["id"] = f"{step:04}"
        made["channel_versions"] = {"a": f"{step + 1:04}", "b": f"{step + 1:04}"}
        made["channel_values"] = {name: _DeltaSnapshot([f"{name} at {step}"]) for name in names} | {"x": [step]}
        made["channel_versions"]["x"] = f"{step + 1:04}"
        counters = {"a": [1, 1], "b": [1, 1]}
        about: Any = {"step": step, "counters_since_delta_snapshot": counters}
        if runs:
            about["run_id"] = runs[step]
        config = await saver.aput(config, made, about, dict(made["channel_versions"]))
        await saver.aput_writes(config, [("a", [f"a {step}"]), ("b", [f"b {step}"])], "task")
        configs.append(config)
    return configs


async def histories(saver: PooledPostgresSaver, configs: Sequence[Any]) -> list[Any]:
    """What LangGraph asks for: of each checkpoint, the history of the channels that it has no snapshot of."""
    found = []
    for config in configs:
        values = await values_of(saver, config) or {}
        missing = [name for name in ("a", "b") if name not in values]
        found.append((values, await saver.aget_delta_channel_history(config=config, channels=missing)))
    return found


@pytest.mark.parametrize(
    "snapshots",
    [
        ["ab", "", "", "", "a", "", "b", "", ""],
        ["", "", "b", "", "", "a", "", "", ""],
        ["a", "b", "a", "b", "a", "b", "", "", "a"],
        ["b", "", "a", "", "", "", "", "", ""],
        ["", "", "", "", "", "", "", "", ""],
        ["", "", "", "", "", "", "", "", "ab"],
    ],
)
async def test_every_checkpoint_that_stays_has_its_history(saver: PooledPostgresSaver, snapshots: list[str]) -> None:
    configs = await chain(saver, snapshots)
    before = await histories(saver, configs)
    await saver.aprune(["t"])
    stayed = {one.config["configurable"]["checkpoint_id"] for one in await history(saver, "t")}
    assert f"{len(snapshots) - 1:04}" in stayed
    kept = [number for number in range(len(snapshots)) if f"{number:04}" in stayed]
    after = await histories(saver, [configs[number] for number in kept])
    assert dict(zip(kept, after, strict=True)) == {number: before[number] for number in kept}
    # and no more than that: back to where both have a snapshot, and where nothing was written before
    assert kept == list(range(len(snapshots) - len(kept), len(snapshots)))
    both = max((number for number, names in enumerate(snapshots) if names == "ab"), default=0)
    assert len(kept) <= len(snapshots) - both


async def test_a_channel_that_nobody_wrote_to_keeps_nothing(saver: PooledPostgresSaver) -> None:
    config = at("t")
    for step in range(9):
        made = empty_checkpoint()
        made["id"] = f"{step:04}"
        made["channel_versions"] = {"x": f"{step}"}
        made["channel_values"] = {"x": [step]}
        config = await saver.aput(
            config, made, {"counters_since_delta_snapshot": {"idle": (0, step)}}, dict(made["channel_versions"])
        )
    await saver.aprune(["t"])
    assert len(await history(saver, "t")) == 1


async def test_deleting_a_run_keeps_what_another_runs_state_needs(saver: PooledPostgresSaver) -> None:
    runs = ["first", "first", "second", "second", "third", "third"]
    configs = await chain(saver, ["ab", "", "", "", "", ""], runs=runs)
    before = await histories(saver, configs)
    await saver.adelete_for_runs(["first"])
    assert await histories(saver, configs) == before
    await saver.adelete_for_runs(["third"])
    assert len(await history(saver, "t")) == 4
    assert await histories(saver, configs[:4]) == before[:4]
    await saver.adelete_for_runs(["first", "second", "third"])
    assert await history(saver, "t") == []


async def test_a_value_that_older_versions_noted_as_empty_is_no_snapshot(
    saver: PooledPostgresSaver, conn: psycopg.Connection
) -> None:
    configs = await chain(saver, ["ab", "", "", ""])
    before = await histories(saver, configs)
    conn.execute(
        """
        UPDATE workflow_checkpoints.checkpoints
           SET checkpoint = jsonb_set(checkpoint, '{channel_versions,a}', '"e"') WHERE checkpoint_id = '0002'
        """
    )
    conn.execute(
        """
        INSERT INTO workflow_checkpoints.checkpoint_blobs (thread_id, channel, version, type)
        VALUES ('t', 'a', 'e', 'empty')
        """
    )
    assert await histories(saver, configs) == before
    await saver.aprune(["t"])
    assert await histories(saver, configs[-1:]) == before[-1:]


async def test_a_checkpoint_that_is_its_own_parent_ends_the_walk(saver: PooledPostgresSaver) -> None:
    config = (await chain(saver, ["", ""]))[-1]
    made = empty_checkpoint()
    made["id"] = config["configurable"]["checkpoint_id"]
    await saver.aput(config, made, {"counters_since_delta_snapshot": {"a": (1, 1)}}, {})
    async with asyncio.timeout(60):
        await saver.aget_delta_channel_history(config=config, channels=["a"])
        await saver.aprune(["t"])
    assert len(await history(saver, "t")) == 1
