"""The whole system as processes: an API, three workers, and a PostgreSQL of its own behind a TCP proxy.

The processes reach the server through the proxy. Whoever looks on goes straight to it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psutil
from psycopg.conninfo import make_conninfo

from tests.chaos.fleet import Fleet
from tests.chaos.graphs import GATES
from tests.chaos.journal import JOURNAL
from tests.chaos.storm.graphs import GRAPHS
from tests.chaos.storm.schedule import WORKERS
from tests.postgres import Cluster
from tests.proxy import Proxy
from tests.servers import Server, Worker

__all__ = ["System", "fake_clock", "open_system"]

# Enough for all processes, and few enough for a fault to take the rest.
_MAX_CONNECTIONS = 80
_DISK_MEGABYTES = 768
_READY_WITHIN_S = 120.0
_OPTIONS = f"-c fsync=off -c max_connections={_MAX_CONNECTIONS} -c max_wal_size=64MB -c min_wal_size=32MB"
# As Debian and Fedora install it.
_FAKETIME = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib*/faketime/libfaketimeMT.so.1")


class System(Fleet):
    """`servers[0]` is the API; the others are the workers."""

    def __init__(
        self, directory: Path, cluster: Cluster, proxy: Proxy, *, lease_s: float, has_disk: bool, fakes_clocks: bool
    ) -> None:
        super().__init__(directory, cluster.dsn())
        self.directory = directory
        self.cluster = cluster
        self.proxy = proxy
        self.lease_s = lease_s
        self.has_disk = has_disk
        self._fakes_clocks = fakes_clocks
        self._api = self._add(Server, "api", "--no-worker")
        self.workers = [self._add(Worker, f"worker{number}") for number in range(WORKERS)]

    @property
    def api(self) -> Server:
        """Where the load goes."""
        return self._api

    def _add(self, kind: type[Server], name: str, *arguments: str) -> Server:
        home = self.directory / name
        home.mkdir()
        graphs = {graph: f"tests.chaos.storm.graphs:{graph}" for graph in GRAPHS}
        (home / "langgraph.json").write_text(json.dumps({"graphs": graphs}))
        environment = {
            "USE_POSTGRES_SAVER": "true",
            "POSTGRES_CONNECTION_STRING": make_conninfo(self.cluster.dsn(), port=self.proxy.port),
            "POSTGRES_POOL_MAX_SIZE": "6",
            "RUN_LEASE_SECONDS": f"{self.lease_s:g}",
            # Innocent runs may lose many workers in a storm. What becomes of guilty ones is tested elsewhere.
            "RUN_MAX_ATTEMPTS": "100",
            "DRAIN_TIMEOUT": "3",
            JOURNAL: str(self.journal.path),
            GATES: str(self.gates),
        }
        server = kind(home, environment, "--graphs", "langgraph.json", *arguments)
        # A library that fakes the clock is loaded by an interpreter that begins anew, and by no fork.
        server.is_begun_anew = self._fakes_clocks
        server.ready_within_s = _READY_WITHIN_S
        self.servers.append(server)
        return server

    def running_on(self, pid: int | None = None) -> set[str]:
        """The runs under way, or those that the process drives."""
        query = (
            "SELECT run_id FROM workflow_metadata AS run JOIN workflow_runner AS runner ON runner.owner = lease_owner"
            " WHERE run.status = 'running' AND (%s::int IS NULL OR pid = %s)"
        )
        return {str(row["run_id"]) for row in self.rows(query, [pid, pid])}

    def ensure_postgres(self) -> None:
        """Start the server again where it is not running."""
        if not self._postmaster_runs():
            (self.cluster.data / "postmaster.pid").unlink(missing_ok=True)
            self.cluster.start()

    def stop_postgres(self) -> None:
        """End it, as by a crash."""
        if self._postmaster_runs():
            self.cluster.stop("immediate")

    def _postmaster_runs(self) -> bool:
        try:
            pid = int((self.cluster.data / "postmaster.pid").read_text().split()[0])
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, IndexError, ValueError, psutil.NoSuchProcess):
            return False


def fake_clock(offset_s: int) -> Mapping[str, str] | None:
    """The environment of a process whose clock is wrong by so much; None where libfaketime is not installed.

    Its monotonic clock stays right: that one knows no time of day.
    """
    found = [str(path) for pattern in _FAKETIME for path in Path("/").glob(pattern.lstrip("/"))]
    if not found:
        return None
    return {"LD_PRELOAD": found[0], "FAKETIME": f"{offset_s:+d}", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@contextmanager
def _disk() -> Iterator[tuple[Path, bool]]:
    """A directory for the data, and whether it is a small disk of its own; that takes the right to mount."""
    directory = Path(tempfile.mkdtemp(prefix="holdfast-pg-", dir="/tmp"))
    directory.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MEGABYTES}m,mode=755", "holdfast-chaos", str(directory)]
    mounted = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = mounted and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield directory, mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(directory)], check=False, capture_output=True)
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def open_system(directory: Path, *, lease_s: float, fakes_clocks: bool) -> AsyncIterator[System]:
    """The system, started, with its logs below `directory`; everything that was started is ended at the end."""
    async with AsyncExitStack() as stack:
        data, has_disk = stack.enter_context(_disk())
        cluster = Cluster(data, options=_OPTIONS)
        proxy = await stack.enter_async_context(Proxy.to("127.0.0.1", cluster.port))
        system = System(directory, cluster, proxy, lease_s=lease_s, has_disk=has_disk, fakes_clocks=fakes_clocks)
        stack.callback(_keep_log, data / "log", directory / "postgres.log")
        stack.callback(system.stop_postgres)
        await asyncio.to_thread(cluster.create)
        await asyncio.to_thread(cluster.start)
        for server in system.servers:
            stack.push_async_callback(server.close)
        await system.api.start()
        await system.start(*system.workers)
        yield system


def _keep_log(log: Path, kept: Path) -> None:
    with suppress(OSError):
        shutil.copyfile(log, kept)
