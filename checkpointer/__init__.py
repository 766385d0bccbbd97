"""LangGraph checkpoints in memory or in PostgreSQL: `USE_POSTGRES_SAVER` decides, the graph does not change.

async with open_saver() as saver:
    graph = builder.compile(checkpointer=saver)
"""

from checkpointer.errors import (
    BlockedTypeError,
    CheckpointerError,
    ConnectError,
    EmbeddedMissingError,
    SaverClosedError,
    SaverUnavailableError,
    SchemaError,
    SettingsError,
    SetupBlockedError,
    StaleWriterError,
    UnreadableError,
    UnsavableError,
)
from checkpointer.factory import open_postgres_saver, open_saver
from checkpointer.health import HealthReport, check_health
from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.serde import CompressedSerializer
from checkpointer.settings import CheckpointerSettings
from checkpointer.sync import open_saver_sync

__all__ = [
    "BlockedTypeError",
    "CheckpointerError",
    "CheckpointerSettings",
    "CompressedSerializer",
    "ConnectError",
    "EmbeddedMissingError",
    "HealthReport",
    "PooledPostgresSaver",
    "SaverClosedError",
    "SaverUnavailableError",
    "SchemaError",
    "SettingsError",
    "SetupBlockedError",
    "StaleWriterError",
    "UnreadableError",
    "UnsavableError",
    "check_health",
    "open_postgres_saver",
    "open_saver",
    "open_saver_sync",
]
