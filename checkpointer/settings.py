"""Environment → one frozen `CheckpointerSettings`. The only module here that reads the environment.

Fields are the environment names in lower case. `.env` in the working directory is read too; real environment
variables win. A value that does not parse raises `SettingsError` naming the variable, what it got and what it
takes: a flag such as `maybe` is never read as false.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from checkpointer.errors import SettingsError

__all__ = ["CheckpointerSettings", "Flag", "Seconds", "check_target", "explain", "is_schema_name", "mask_conninfo"]

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}
_SECRET_FIELDS = re.compile(r"password|token|key|secret|connection_string", re.IGNORECASE)
# An identifier that needs no quoting, so that the name reads the same in psql, in a log and in a URL.
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_SCHEMA_TAKES = (
    "lower-case letters, digits and underscores, at most 63, not beginning with a digit or pg_, "
    "and not information_schema"
)
_CONNINFO_TAKES = (
    "a URI such as postgresql://user:password@host:5432/database (a password's @ / ? # % are written "
    "%40 %2F %3F %23 %25 there), or libpq's host=… port=… dbname=…"
)
# One port, or one per host; an empty one is the default.
_PORTS = re.compile(r"\d{0,5}(,\d{0,5})*")
# A bare @ after the one that ends a URI's user and password, and before its query.
_AT_IN_ADDRESS = re.compile(r"postgres(?:ql)?://(?:[^@/]*@)?+[^?@]*@")


def _flag(value: object) -> object:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
    elif isinstance(value, bool):
        return value
    raise PydanticCustomError("flag", "takes true/false, 1/0, yes/no or on/off")


Flag = Annotated[bool, BeforeValidator(_flag)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class CheckpointerSettings(BaseSettings):
    """How checkpoints are kept. Times are in seconds.

    Raises `SettingsError` (never pydantic's `ValidationError`) where a value does not parse.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", frozen=True, populate_by_name=True
    )

    use_postgres_saver: Flag = False
    """`true`/`false`, `1`/`0`, `yes`/`no`, `on`/`off`. Off, runs are kept in memory and end with the process."""
    postgres_connection_string: SecretStr | None = None
    """A URI (`postgresql://user:password@host:5432/database`) or libpq's `host=… port=… dbname=…`."""
    postgres_host: str | None = None
    """Used, with the next four, where no connection string is set."""
    postgres_port: int | None = Field(default=None, ge=1, le=65535)
    """Unset: libpq's, 5432."""
    postgres_user: str | None = None
    """Unset: libpq's, the name of the system's user."""
    postgres_password: SecretStr | None = None
    """Also fills a password that is missing in the connection string."""
    postgres_database: str | None = None
    """Unset: libpq's, the name of the user."""
    postgres_schema: str = "workflow_checkpoints"
    """Holds every table of Holdfast's and LangGraph's; lower-case letters, digits and underscores."""
    postgres_migration_connection_string: SecretStr | None = None
    """A direct address for creating tables, where the other one is a pooler's. Unset: the same server."""
    postgres_setup: Literal["auto", "verify"] = "auto"
    """`auto` creates and upgrades the tables at start; `verify` only checks them, for a role without CREATE."""
    postgres_setup_timeout: Seconds = 60.0
    """How long setup waits for locks before it gives up and names who holds them."""
    postgres_pool_min_size: int = Field(default=2, ge=0, le=1000)
    """Connections kept open."""
    postgres_pool_max_size: int = Field(default=10, ge=1, le=1000)
    """Connections at most."""
    postgres_pool_timeout: Seconds = 10.0
    """How long one waits for a free connection."""
    postgres_pooler: Literal["none", "transaction"] = "none"
    """`transaction` behind PgBouncer or Supavisor in transaction mode; the server then needs
    `POSTGRES_MIGRATION_CONNECTION_STRING` too, for one session lock."""
    postgres_connect_attempts: int = Field(default=5, ge=1, le=100)
    """Tries at start before giving up."""
    postgres_connect_backoff: Seconds = 0.5
    """Pause after the first failed try; it doubles, with some jitter."""
    postgres_connect_timeout: Seconds = 10.0
    """How long one try may take."""
    postgres_retry_for: Seconds = 30.0
    """How long one save or load rides out a lost server."""
    checkpoint_compression: Literal["zstd", "none"] = "zstd"
    """Or `none`; values above 1 KB are compressed where that makes them smaller."""
    checkpoint_storage: Literal["whole", "shared"] = "whole"
    """`shared` stores each element of a long list once per thread: storage that grows with what is new, not with the
    history. LangGraph's own saver reads only `whole`; `holdfast setup --storage whole` turns everything back."""
    checkpoint_encryption_keys: SecretStr | None = None
    """`id:base64,…`, AES keys; the first encrypts, all decrypt, so a new key goes in front of the old ones. Needs the
    extra `encryption`."""
    checkpoint_allowed_modules: str = ""
    """`module:Class,…`: types of yours that may be rebuilt from a checkpoint."""
    postgres_embedded_dir: Path | None = None
    """Where the embedded server keeps its data. Unset: a directory of the user's."""
    postgres_saver_rollout_percent: int = Field(default=100, ge=0, le=100)
    """With the flag on, the share of new threads that go to PostgreSQL; the others are kept in memory. A thread stays
    where it began, whatever this becomes. See [rollout](rollout.md)."""
    memory_snapshot: Path | None = None
    """A file that threads in memory are loaded from at start and written to at a clean stop, by one process at a time.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            problem = explain(exc)
        except (OSError, UnicodeDecodeError) as exc:
            problem = f"{Path('.env').absolute()} can't be read: {exc}"
        else:
            return
        # Raised out here so that pydantic's error, which quotes secrets, is not kept as the context.
        raise SettingsError(problem)

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object, info: Any) -> object:
        """Treat `NAME=` in an env file as not set, except for the flag, where it is unreadable."""
        if isinstance(value, str) and not value.strip() and info.field_name != "use_postgres_saver":
            return cls.model_fields[info.field_name].get_default(call_default_factory=True)
        return value

    @field_validator("postgres_schema")
    @classmethod
    def _schema_name(cls, value: str) -> str:
        if not is_schema_name(value):
            raise PydanticCustomError("schema_name", f"takes {_SCHEMA_TAKES}")
        return value

    @field_validator("postgres_connection_string", "postgres_migration_connection_string")
    @classmethod
    def _conninfo(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value().strip()  # a secret that is mounted as a file ends in a newline
        if _parts(text) is None:
            raise PydanticCustomError("conninfo", f"takes {_CONNINFO_TAKES}")
        return SecretStr(text)

    @field_validator("postgres_host")
    @classmethod
    def _host(cls, value: str | None) -> str | None:
        if value is not None and _is_mixed_up(value):
            raise PydanticCustomError(
                "host", "takes a host name, address or socket directory; a URI goes to POSTGRES_CONNECTION_STRING"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.postgres_pool_max_size < self.postgres_pool_min_size:
            raise PydanticCustomError("pool_size", "POSTGRES_POOL_MAX_SIZE must not be below POSTGRES_POOL_MIN_SIZE")
        parts = ("postgres_port", "postgres_user", "postgres_database")
        lonely = [name.upper() for name in parts if getattr(self, name) is not None]
        if self.use_postgres_saver and lonely and not self.has_connection:
            raise PydanticCustomError(
                "host", "POSTGRES_HOST is not set, but {names} is: name the host too", {"names": ", ".join(lonely)}
            )
        return self

    @property
    def has_connection(self) -> bool:
        """Whether a server is named, by string or by parts."""
        return self.postgres_connection_string is not None or self.postgres_host is not None

    def conninfo(self) -> str:
        """The libpq connection string of the named server, with its password. Never log it.

        Raises `SettingsError` where no server is named.
        """
        return self._with_password(self._named_server())

    def migration_conninfo(self) -> str:
        """The direct address for migrations; the same server as `conninfo` unless set apart."""
        if self.postgres_migration_connection_string is None:
            return self.conninfo()
        return self._with_password(self.postgres_migration_connection_string.get_secret_value())

    def _named_server(self) -> str:
        if self.postgres_connection_string is not None:
            return self.postgres_connection_string.get_secret_value()
        if self.postgres_host is None:
            raise SettingsError("no PostgreSQL is named: set POSTGRES_CONNECTION_STRING or POSTGRES_HOST")
        return make_conninfo(
            "",
            host=self.postgres_host,
            port=self.postgres_port,
            user=self.postgres_user,
            dbname=self.postgres_database,
        )

    def _with_password(self, conninfo: str) -> str:
        if self.postgres_password is None or conninfo_to_dict(conninfo).get("password"):
            return conninfo
        return make_conninfo(conninfo, password=self.postgres_password.get_secret_value())


def explain(error: ValidationError) -> str:
    """One line per wrong setting: the variable, what it got (secrets masked), what it takes."""
    lines = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"]).upper()
        secret = _SECRET_FIELDS.search(name) or "@" in str(item["input"])
        got = "***" if secret else repr(item["input"])
        message = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        takes = message if message.startswith("takes ") else f"takes: {message}"
        lines.append(f"{name}={got} can't be used: it {takes}" if name else message)
    return "; ".join(lines)


def is_schema_name(name: str) -> bool:
    """Whether it can name a schema of ours."""
    return bool(_SCHEMA_NAME.fullmatch(name)) and not name.startswith("pg_") and name != "information_schema"


def check_target(conninfo: str, schema: str) -> None:
    """Raise `SettingsError`, without quoting a secret, unless both can be used.

    For those who give them as arguments; `CheckpointerSettings` checks its own.
    """
    if _parts(conninfo) is None:
        raise SettingsError(f"the connection string can't be used: it takes {_CONNINFO_TAKES}")
    if not is_schema_name(schema):
        raise SettingsError(f"schema={schema!r} can't be used: it takes {_SCHEMA_TAKES}")


def mask_conninfo(conninfo: str) -> str:
    """The connection string as a URI to show: `postgresql://claude:***@localhost:5432/claude_studio`.

    Only host, port, user and database are shown; whatever else the string holds (a client key's password,
    a service file) stays out, and so does all of a string that can't be read with certainty.
    """
    parts = _parts(conninfo)
    if parts is None:
        return "postgresql://***"
    user = quote(parts.get("user", ""), safe="")
    secret = ":***" if parts.get("password") else ""
    at = f"{user}{secret}@" if user or secret else ""
    hosts = (parts.get("host") or parts.get("hostaddr") or "").split(",")
    ports = parts.get("port", "").split(",")
    if len(ports) < len(hosts):  # one port counts for every host
        ports = ports[:1] * len(hosts)
    where = ",".join(_shown_host(host, port) for host, port in zip(hosts, ports, strict=False))
    return f"postgresql://{at}{where}/{quote(parts.get('dbname', ''), safe='')}"


def _shown_host(host: str, port: str) -> str:
    shown = f"[{host}]" if ":" in host else quote(host, safe=".-_")
    return f"{shown}:{port}" if port else shown


def _parts(conninfo: str) -> dict[str, str] | None:
    """What libpq reads in the string; None where that is not, for certain, what was meant.

    In a URI whose password holds a bare `@` or `/`, libpq finds the rest of the password in the host, the port
    or the database.
    """
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    except (ProgrammingError, UnicodeError):  # %a1 alone is no character
        return None
    certain = (
        _PORTS.fullmatch(parts.get("port", ""))
        and not _AT_IN_ADDRESS.match(conninfo)
        and not any(_is_mixed_up(parts.get(name, "")) for name in ("host", "hostaddr"))
        and "://" not in parts.get("dbname", "")
    )
    return parts if certain else None


def _is_mixed_up(host: str) -> bool:
    # A leading @ is an abstract socket's.
    return "@" in host[1:] or "://" in host
