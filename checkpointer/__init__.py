"""LangGraph checkpoints in memory or in PostgreSQL: `USE_POSTGRES_SAVER` decides, the graph does not change.

async with open_saver() as saver:
    graph = builder.compile(checkpointer=saver)
"""

from checkpointer.errors import (
    CheckpointerError,
    ConnectError,
    EmbeddedMissingError,
    SaverUnavailableError,
    SchemaError,
    SettingsError,
    SetupBlockedError,
)
from checkpointer.factory import open_postgres_saver, open_saver
from checkpointer.health import HealthReport, check_health
from checkpointer.postgres.saver import PooledPostgresSaver
from checkpointer.settings import CheckpointerSettings
from checkpointer.sync import open_saver_sync

__all__ = [
    "CheckpointerError",
    "CheckpointerSettings",
    "ConnectError",
    "EmbeddedMissingError",
    "HealthReport",
    "PooledPostgresSaver",
    "SaverUnavailableError",
    "SchemaError",
    "SettingsError",
    "SetupBlockedError",
    "check_health",
    "open_postgres_saver",
    "open_saver",
    "open_saver_sync",
]
