"""Fixtures every test may use: a server for the session, a fresh database per test, clean settings."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from psycopg.conninfo import conninfo_to_dict

from checkpointer import CheckpointerSettings
from checkpointer.migrations import MIGRATIONS
from checkpointer.postgres import schema as tables
from orchestrator.migrations import ALL_MIGRATIONS
from tests import postgres
from tests.bench import processes
from tests.forking import fork_holdfast
from tests.postgres import Cluster, fresh_database, own_cluster

_PREFIXES = ("POSTGRES_", "CHECKPOINT_", "HOLDFAST_", "API_TOKENS", "USE_POSTGRES_SAVER", "WORKER_", "RUN_", "MEMORY_")

# An example may take long on a machine that is busy, and says nothing of the code. The examples are the same in every
# run, so that the suite's word depends on the code alone; to look for others: `--hypothesis-profile=default`.
settings.register_profile(
    "suite", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the person who runs the suite, and no `.env` of theirs, reaches a test."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES) or name in {"HOST", "PORT", "LOG_FORMAT", "LOG_LEVEL"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A command that is called in the test's own process sets up the whole process's log."""
    root = logging.getLogger()
    loggers = [root, *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)


@pytest.fixture(scope="session")
def admin_dsn() -> Iterator[str]:
    """The session's server, as a role that may create databases."""
    if given := os.environ.get("TEST_POSTGRES_DSN"):
        yield given
        return
    with own_cluster("-c fsync=off -c max_connections=200") as cluster:
        yield cluster.dsn()


@pytest.fixture(scope="session")
def template(admin_dsn: str) -> Iterator[str]:
    """A database with all tables, to be copied."""
    with fresh_database(admin_dsn) as dsn:
        asyncio.run(tables.setup(dsn, "workflow_checkpoints", (MIGRATIONS, *ALL_MIGRATIONS)))
        yield str(conninfo_to_dict(dsn)["dbname"])


@pytest.fixture
def postgres_dsn(admin_dsn: str, template: str) -> Iterator[str]:
    """A database of this test's own, in which all tables are made already."""
    with fresh_database(admin_dsn, template=template) as dsn:
        yield dsn


@pytest.fixture
def empty_dsn(admin_dsn: str) -> Iterator[str]:
    """A database of this test's own with nothing in it."""
    with fresh_database(admin_dsn) as dsn:
        yield dsn


@pytest.fixture
def checkpointer_settings(postgres_dsn: str) -> CheckpointerSettings:
    """The flag on, against this test's database."""
    return CheckpointerSettings(
        use_postgres_saver=True,
        postgres_connection_string=postgres_dsn,
        postgres_pool_max_size=5,
        postgres_connect_attempts=2,
        postgres_connect_backoff=0.05,
    )


@pytest.fixture
def quick_benches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters of benches are in memory, their processes forks: the way through is tried here, not the figures."""
    begun, directory_of = processes._begun, postgres._directory

    def forked(
        directory: Path, arguments: list[str], environment: Mapping[str, str], log: IO[bytes], profile: Path | None
    ) -> object:
        if profile is not None:
            return begun(directory, arguments, environment, log, profile)
        return fork_holdfast(arguments, cwd=directory, env=environment, stdout=log, stderr=log)

    monkeypatch.setattr(processes, "_begun", forked)
    monkeypatch.setattr(postgres, "_directory", lambda on_disk: directory_of(on_disk=False))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A server of this test's own, to be stopped and killed."""
    with own_cluster() as server:
        yield server


@pytest.fixture
def conn(postgres_dsn: str) -> Iterator[psycopg.Connection]:
    """A plain connection to this test's database, to look at rows."""
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        yield connection
