"""The flag: `USE_POSTGRES_SAVER` decides which saver a graph is compiled with.

    USE_POSTGRES_SAVER off                       → InMemorySaver, said plainly in the log
    on, with POSTGRES_CONNECTION_STRING or _HOST → PooledPostgresSaver on that server
    on, without, `embedded` extra installed      → PooledPostgresSaver on the embedded server
    on, without, no extra                        → EmbeddedMissingError

With POSTGRES_SAVER_ROLLOUT_PERCENT below 100, the flag on gives a RolloutSaver: PostgreSQL for that share of the new
threads, an InMemorySaver for the others. With MEMORY_SNAPSHOT, what is in memory is loaded from a file at start and
written to it at a clean stop. It never falls back to memory by itself.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import partial
from pathlib import Path
from typing import Any, Literal

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import SerializerProtocol

from checkpointer import tracing
from checkpointer.errors import SettingsError
from checkpointer.metrics import BACKEND
from checkpointer.migrations import MIGRATIONS
from checkpointer.postgres import schema as tables
from checkpointer.postgres.batch_load import BatchLoad
from checkpointer.postgres.batching import Limits
from checkpointer.postgres.chunks import ChunkReader, KnownChunks
from checkpointer.postgres.codec import Codec
from checkpointer.postgres.embedded import embedded_server
from checkpointer.postgres.group_commit import GroupCommit
from checkpointer.postgres.migrations import MigrationSet
from checkpointer.postgres.pool import Pool, PoolOptions, Server, open_pool, wait_until_ready
from checkpointer.postgres.probe import Probe
from checkpointer.postgres.queries import load_queries
from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.postgres.worker_connection import WorkerConnection
from checkpointer.rollout import RolloutSaver, leave_moved
from checkpointer.serde import (
    AllowListSerializer,
    Cipher,
    CompressedSerializer,
    can_be_shared,
    collect_graph_types,
    parse_allowed_modules,
)
from checkpointer.settings import CheckpointerSettings, check_target, mask_conninfo
from checkpointer.snapshot import holds_threads, load_snapshot, snapshot_lock, write_snapshot
from checkpointer.thread_file import Record

__all__ = ["open_beside", "open_postgres", "open_postgres_saver", "open_saver"]

_log = logging.getLogger(__name__)
# Open savers by engine: the metric says 1 until the last of a kind is closed. `open_saver_sync` opens in threads.
_in_use: Counter[str] = Counter()
_in_use_lock = threading.Lock()


@asynccontextmanager
async def open_saver(
    settings: CheckpointerSettings | None = None,
    *,
    migrations: Sequence[MigrationSet] = (),
    snapshot: bool = True,
) -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """Open the saver that the settings (by default: the environment) ask for.

    `migrations` are further tables to set up in the same schema, under the same lock. Without `snapshot`,
    MEMORY_SNAPSHOT is left to the caller. Raises `SettingsError`, `ConnectError`, `SchemaError`, `ThreadFileError` or
    `ThreadConflictError`; see `checkpointer.errors`.
    """
    settings = settings or CheckpointerSettings()
    path = settings.memory_snapshot if snapshot else None
    percent = settings.postgres_saver_rollout_percent
    if not settings.use_postgres_saver:
        opened: AbstractAsyncContextManager[BaseCheckpointSaver[Any]] = _memory_saver(settings, path)
    elif percent == 100 and not (path and holds_threads(path)):
        opened = open_postgres(settings, migrations=migrations)
    else:
        opened = _rollout_saver(settings, migrations, path)
    async with opened as saver:
        yield saver


@asynccontextmanager
async def open_postgres(
    settings: CheckpointerSettings, *, migrations: Sequence[MigrationSet] = (), beside: str = ""
) -> AsyncIterator[PooledPostgresSaver]:
    """Open the PostgreSQL saver that the settings name, whatever share of the threads is to be there.

    For whoever looks after what PostgreSQL has. `beside` goes into the log. Raises what `open_saver` raises.
    """
    async with (
        _server(settings) as (conninfo, migration_conninfo),
        open_postgres_saver(
            conninfo,
            schema=settings.postgres_schema,
            migration_conninfo=migration_conninfo,
            migrations=migrations,
            setup=settings.postgres_setup,
            setup_timeout_s=settings.postgres_setup_timeout,
            connect_attempts=settings.postgres_connect_attempts,
            connect_backoff_s=settings.postgres_connect_backoff,
            connect_timeout_s=settings.postgres_connect_timeout,
            retry_for_s=settings.postgres_retry_for,
            storage=settings.checkpoint_storage,
            serde=_serializer(settings),
            cipher=_cipher(settings),
            pool=PoolOptions(
                min_size=settings.postgres_pool_min_size,
                max_size=settings.postgres_pool_max_size,
                timeout_s=settings.postgres_pool_timeout,
                pooler=settings.postgres_pooler,
            ),
            beside=beside,
        ) as saver,
    ):
        yield saver


def _serializer(settings: CheckpointerSettings) -> SerializerProtocol:
    plain = _allow_list(settings)
    return plain if settings.checkpoint_compression == "none" else CompressedSerializer(plain)


def open_beside(
    settings: CheckpointerSettings, *, migrations: Sequence[MigrationSet] = ()
) -> AbstractAsyncContextManager[BaseCheckpointSaver[Any]]:
    """What a command can look at beside a server: what a server keeps in memory, and its MEMORY_SNAPSHOT, is its own.

    With the flag on PostgreSQL alone, else an empty memory. Raises what `open_saver` raises.
    """
    if settings.use_postgres_saver:
        return open_postgres(settings, migrations=migrations)
    return open_saver(settings, snapshot=False)


def _allow_list(settings: CheckpointerSettings) -> AllowListSerializer:
    return AllowListSerializer(parse_allowed_modules(settings.checkpoint_allowed_modules))


def _cipher(settings: CheckpointerSettings) -> Cipher | None:
    keys = settings.checkpoint_encryption_keys
    return Cipher.parse(keys.get_secret_value()) if keys is not None else None


@asynccontextmanager
async def _memory_saver(settings: CheckpointerSettings, path: Path | None) -> AsyncIterator[InMemorySaver]:
    file = settings.memory_snapshot
    fate = f"runs survive a clean stop in {file}, and not a crash" if file else "runs do not survive a restart"
    # What comes from a file is rebuilt by the list, as what comes from a database is.
    saver = InMemorySaver(serde=_restrained(settings) if file else None)
    async with _snapshotted(saver, path) as taken:
        _log.warning("[Checkpointer] MemorySaver enabled: %s (USE_POSTGRES_SAVER is not set)", fate)
        with _announced("memory"):
            async with taken:
                yield saver


@asynccontextmanager
async def _rollout_saver(
    settings: CheckpointerSettings, migrations: Sequence[MigrationSet], path: Path | None
) -> AsyncIterator[RolloutSaver]:
    percent = settings.postgres_saver_rollout_percent
    memory = InMemorySaver(serde=_restrained(settings))
    fate = f"survive a clean stop in {path}, and not a crash" if path else "do not survive a restart"
    beside = f" for {percent} % of new threads, MemorySaver enabled for the others, which {fate}"
    async with (
        _snapshotted(memory, path) as taken,
        open_postgres(settings, migrations=migrations, beside=beside) as postgres,
    ):
        await leave_moved(memory, postgres, path)
        with _announced("memory"):
            async with taken:
                yield RolloutSaver(memory, postgres, percent)


def _restrained(settings: CheckpointerSettings) -> AllowListSerializer:
    collect_graph_types()
    return _allow_list(settings)


@asynccontextmanager
async def _snapshotted(memory: InMemorySaver, path: Path | None) -> AsyncIterator[AbstractAsyncContextManager[None]]:
    """Hold the file and load it; the block in which the saver is used goes into the context given."""
    if path is None:
        yield nullcontext()
        return
    with snapshot_lock(path):
        others = await load_snapshot(memory, path)
        yield _written(memory, path, others)


@asynccontextmanager
async def _written(memory: InMemorySaver, path: Path, others: Sequence[Record]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        count = await write_snapshot(memory, path, others)
        _log.info("[Checkpointer] %d threads of memory written to %s", count, path)


@asynccontextmanager
async def _server(settings: CheckpointerSettings) -> AsyncIterator[tuple[str, str]]:
    """The connection strings for work and for migrations."""
    if settings.has_connection:
        yield settings.conninfo(), settings.migration_conninfo()
        return
    async with embedded_server(settings.postgres_embedded_dir) as conninfo:
        yield conninfo, conninfo


@asynccontextmanager
async def open_postgres_saver(
    conninfo: str,
    *,
    schema: str = "workflow_checkpoints",
    migration_conninfo: str | None = None,
    migrations: Sequence[MigrationSet] = (),
    setup: Literal["auto", "verify"] = "auto",
    setup_timeout_s: float = 60.0,
    connect_attempts: int = 5,
    connect_backoff_s: float = 0.5,
    connect_timeout_s: float = 10.0,
    retry_for_s: float = 30.0,
    pool: PoolOptions = PoolOptions(),  # noqa: B008 - frozen
    writers: int = 2,
    readers: int = 1,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    storage: Literal["whole", "shared"] = "whole",
    serde: SerializerProtocol | None = None,
    cipher: Cipher | None = None,
    beside: str = "",
) -> AsyncIterator[PooledPostgresSaver]:
    """Open a PostgreSQL saver without looking at the environment. Times are in seconds.

    Beside the pool it keeps `writers` + `readers` connections, which serve all saves and loads; `limits` bounds
    what waits for them. With `storage="shared"` long lists are stored element by element. `serde` is by default
    LangGraph's with an allow-list, compressed; a `cipher` encrypts. `beside` is what the log adds: another engine.

    Waits until the server is ready, creates or verifies the tables, then opens the pool. Raises `SettingsError`,
    `ConnectError` or `SchemaError`.
    """
    ready = partial(
        wait_until_ready, attempts=connect_attempts, backoff_s=connect_backoff_s, timeout_s=connect_timeout_s
    )
    tracing.enable()
    direct = migration_conninfo or conninfo
    for address in dict.fromkeys((direct, conninfo)):
        check_target(address, schema)
        version = await ready(address)
    tables_of = tables.setup if setup == "auto" else tables.verify
    await tables_of(direct, schema, (MIGRATIONS, *migrations), timeout_s=setup_timeout_s)
    collect_graph_types()
    codec = Codec(serde or CompressedSerializer(), cipher)
    if storage == "shared" and not can_be_shared(codec.serde):
        raise SettingsError(
            f"storage='shared' does not go with {type(codec.serde).__name__}: it needs LangGraph's JsonPlusSerializer, "
            "compressed or not, which gives equal bytes for equal values. For encryption give a cipher"
        )
    worker = partial(WorkerConnection, conninfo, pooler=pool.pooler, connect_timeout_s=connect_timeout_s)
    workers = [worker() for _ in range(writers)], [worker() for _ in range(readers)]
    server = Server(mask_conninfo(conninfo), version)
    async with (
        open_pool(conninfo, pool) as connections,
        Probe(conninfo) as probe,
        _connected(connections, probe, server, schema, codec, workers, limits, retry_for_s, storage) as saver,
    ):
        sizes = connections.min_size, connections.max_size
        enabled = "[Checkpointer] PostgresSaver enabled (schema %s, server %s, pool %d-%d)%s"
        _log.info(enabled, schema, version, *sizes, beside)
        with _announced("postgres"):
            yield saver


@asynccontextmanager
async def _connected(
    pool: Pool,
    probe: Probe,
    server: Server,
    schema: str,
    codec: Codec,
    workers: tuple[Sequence[WorkerConnection], Sequence[WorkerConnection]],
    limits: Limits,
    retry_for_s: float,
    storage: Literal["whole", "shared"],
) -> AsyncIterator[PooledPostgresSaver]:
    """The saver on top of its writers and readers; leaving commits what was accepted."""
    queries = load_queries("checkpointer.postgres", schema)
    writers, readers = workers
    known = KnownChunks() if storage == "shared" else None
    chunks = ChunkReader(queries["load_chunks"], codec.cipher, known)
    load = queries["load_batch"] + queries["checkpoint_rows"]
    async with (
        GroupCommit(writers, queries, retry_for_s=retry_for_s, limits=limits, known=known) as group_commit,
        BatchLoad(readers, load, chunks, retry_for_s=retry_for_s) as batch_load,
    ):
        yield PooledPostgresSaver(
            pool,
            group_commit,
            batch_load,
            codec,
            chunks,
            known_chunks=known,
            schema=schema,
            probe=probe,
            server=server,
            retry_for_s=retry_for_s,
        )


@contextmanager
def _announced(backend: Literal["memory", "postgres"]) -> Iterator[None]:
    with _in_use_lock:
        _in_use[backend] += 1
        BACKEND.labels(backend=backend).set(1)
    try:
        yield
    finally:
        with _in_use_lock:
            _in_use[backend] -= 1
            if not _in_use[backend]:
                BACKEND.remove(backend)
