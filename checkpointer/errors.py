"""Every error this package raises, as one tree.

    CheckpointerError
    ├── SettingsError             a setting is missing, unreadable or contradicts another (exit code 2)
    │   └── EmbeddedMissingError  the flag is on, but there is neither a connection nor the embedded extra
    ├── ConnectError              the server could not be used at start, after the bounded attempts
    ├── SchemaError               tables are missing, or the role may not create or use them
    │   └── SetupBlockedError     setup waited for another backend for too long
    ├── SaverUnavailableError     a save or load ran out of time while the server was away
    ├── SaverClosedError          a save or load came after the saver was closed
    ├── StaleWriterError          the thread was taken over: this writer's epoch is an old one
    ├── ThreadConflictError       a thread is in memory and in PostgreSQL, with different ends
    ├── UnsavableError            an id or value that PostgreSQL can't hold
    ├── UnreadableError           a stored value that can't be decoded: no such key, another row's, or damaged
    ├── BlockedTypeError          a stored value names a type that may not be rebuilt
    ├── ThreadFileError           a file of threads is damaged, cut short, or of another format
    ├── TransferError             a thread could not be moved to another saver
    └── ArchiveError              a backup can't be written, is damaged, or does not fit where it is to be restored

Messages say what was wrong, with which value (never a secret), and what to do next. Errors of psycopg are
translated where they leave this package, `from` the original.
"""

from __future__ import annotations

__all__ = [
    "ArchiveError",
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
]


class CheckpointerError(Exception):
    """Base of all errors of this package."""


class SettingsError(CheckpointerError):
    """A setting does not parse, is missing, or contradicts another; the message names the variable."""


class EmbeddedMissingError(SettingsError):
    """USE_POSTGRES_SAVER is on without a connection, and the embedded PostgreSQL is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "USE_POSTGRES_SAVER is on, but no PostgreSQL is named and none is embedded: "
            "set POSTGRES_CONNECTION_STRING (or POSTGRES_HOST), "
            "or install the embedded server with: pip install 'holdfast[embedded]'"
        )


class ConnectError(CheckpointerError):
    """PostgreSQL could not be reached or refused the login, after the bounded attempts."""


class SchemaError(CheckpointerError):
    """The tables are missing, or this role may not create or use them."""


class SetupBlockedError(SchemaError):
    """Setup waited too long for a lock; the message names the backend that holds it."""


class SaverUnavailableError(CheckpointerError):
    """A save or load was tried for `POSTGRES_RETRY_FOR` seconds without reaching the server."""

    def __init__(self, operation: str, tried_for_s: float, cause: str) -> None:
        self.tried_for_s = tried_for_s
        super().__init__(
            f"{operation} was given up after {tried_for_s:.1f} s of retries: {cause}; "
            "nothing of it was acknowledged. Check the server, or raise POSTGRES_RETRY_FOR"
        )


class SaverClosedError(CheckpointerError):
    """The saver was closed before this save or load could be accepted."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation} came after the saver was closed: keep `open_saver` open while graphs run")


class StaleWriterError(CheckpointerError):
    """Another process has taken the thread over; nothing of this save was written."""

    def __init__(self, thread_id: str, epoch: int) -> None:
        self.thread_id = thread_id
        self.epoch = epoch
        super().__init__(
            f"thread {thread_id!r} was taken over or deleted: epoch {epoch} is no longer its own, "
            "nothing was written. Stop this attempt; the new owner continues from the last checkpoint"
        )


class ThreadConflictError(CheckpointerError):
    """Threads are in memory and in PostgreSQL, and neither has all of the other; the message names one."""

    def __init__(self, thread_id: str, others: int, path: object) -> None:
        self.thread_id = thread_id
        more = f" and {others} others" if others else ""
        super().__init__(
            f"thread {thread_id!r}{more} went on in memory after PostgreSQL had it, and would be in two places: bring "
            f"it back with `holdfast runs import {path}`, or leave it behind by taking MEMORY_SNAPSHOT away"
        )


class UnsavableError(CheckpointerError, ValueError):
    """An id or value that PostgreSQL can't hold; the message names it and why."""


class UnreadableError(CheckpointerError):
    """A stored value can't be decoded: its key is not configured, it was moved from another row, or is damaged."""


class BlockedTypeError(CheckpointerError):
    """A stored value names a type outside the allow-list; it was not rebuilt."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"a stored value names {name}, which is not on the allow-list, and was not rebuilt. "
            f"If it is yours and you trust it, add it: CHECKPOINT_ALLOWED_MODULES={name}"
        )


class ThreadFileError(CheckpointerError):
    """A file of threads is damaged, cut short, or of another format; the message names the file and the line."""


class TransferError(CheckpointerError):
    """A thread could not be read, written or verified; the message names it."""

    def __init__(self, thread_id: str, reason: str) -> None:
        self.thread_id = thread_id
        super().__init__(f"thread {thread_id!r} {reason}")


class ArchiveError(CheckpointerError):
    """A backup can't be made, read or restored; the message says what is in the way."""
