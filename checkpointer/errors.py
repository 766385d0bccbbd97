"""Every error this package raises, as one tree.

    CheckpointerError
    ├── SettingsError             a setting is missing, unreadable or contradicts another (exit code 2)
    │   └── EmbeddedMissingError  the flag is on, but there is neither a connection nor the embedded extra
    ├── ConnectError              the server could not be used at start, after the bounded attempts
    ├── SchemaError               tables are missing or too new, or the role may not create them
    │   └── SetupBlockedError     setup waited for another backend for too long
    └── SaverUnavailableError     a save or load ran out of time while the server was away

Messages say what was wrong, with which value (never a secret), and what to do next. Errors of psycopg are
translated where they leave this package, `from` the original.
"""

from __future__ import annotations

__all__ = [
    "CheckpointerError",
    "ConnectError",
    "EmbeddedMissingError",
    "SaverUnavailableError",
    "SchemaError",
    "SettingsError",
    "SetupBlockedError",
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
    """The tables are missing, too new for this version, or may not be created by this role."""


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
