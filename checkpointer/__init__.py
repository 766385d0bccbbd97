"""LangGraph checkpoints in memory or in PostgreSQL: `USE_POSTGRES_SAVER` decides, the graph does not change.

async with open_saver() as saver:
    graph = builder.compile(checkpointer=saver)
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        ThreadConflictError,
        ThreadFileError,
        TransferError,
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
    "ThreadConflictError",
    "ThreadFileError",
    "TransferError",
    "UnreadableError",
    "UnsavableError",
    "check_health",
    "open_postgres_saver",
    "open_saver",
    "open_saver_sync",
]

# A name is imported when it is first asked for: settings and errors need none of LangGraph.
_NAMES_OF = {
    "errors": (
        "BlockedTypeError",
        "CheckpointerError",
        "ConnectError",
        "EmbeddedMissingError",
        "SaverClosedError",
        "SaverUnavailableError",
        "SchemaError",
        "SettingsError",
        "SetupBlockedError",
        "StaleWriterError",
        "ThreadConflictError",
        "ThreadFileError",
        "TransferError",
        "UnreadableError",
        "UnsavableError",
    ),
    "factory": (
        "open_postgres_saver",
        "open_saver",
    ),
    "health": (
        "HealthReport",
        "check_health",
    ),
    "postgres.saver": ("PooledPostgresSaver",),
    "serde": ("CompressedSerializer",),
    "settings": ("CheckpointerSettings",),
    "sync": ("open_saver_sync",),
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
