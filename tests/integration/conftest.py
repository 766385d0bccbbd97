"""Fixtures of the tests of run stores, each of which goes over every implementation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from checkpointer import CheckpointerSettings
from tests.runs import Stage, open_stage
from tests.stepping import Journal
from tests.worlds import MemoryWorld, World, postgres_world


@pytest.fixture(params=["memory", "postgres"])
def stage_settings(request: pytest.FixtureRequest) -> CheckpointerSettings:
    """Not async: the fixtures behind it set up their database in an event loop of their own."""
    if request.param == "memory":
        return CheckpointerSettings()
    postgres: CheckpointerSettings = request.getfixturevalue("checkpointer_settings")
    return postgres


@pytest.fixture
async def stage(stage_settings: CheckpointerSettings) -> AsyncIterator[Stage]:
    """A run store of each kind in turn."""
    async with open_stage(stage_settings) as stage:
        yield stage


@pytest.fixture(params=["memory", "postgres"])
def world(request: pytest.FixtureRequest) -> World:
    """Orchestrators over memory and over a database in turn."""
    if request.param == "memory":
        return MemoryWorld()
    return postgres_world(request.getfixturevalue("checkpointer_settings"))


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Where the test's steps leave their traces."""
    return Journal(tmp_path)
