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
    AliasChoices,
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

__all__ = ["CheckpointerSettings", "Flag", "Seconds", "explain", "mask_conninfo"]

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off"}
_SECRET_FIELDS = re.compile(r"password|token|key|secret|connection_string", re.IGNORECASE)
# An identifier that needs no quoting, so that the name reads the same in psql, in a log and in a URL.
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_$]{0,62}")


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
    postgres_connection_string: SecretStr | None = None
    postgres_host: str | None = None
    postgres_port: int | None = Field(default=None, ge=1, le=65535)
    postgres_user: str | None = None
    postgres_password: SecretStr | None = None
    postgres_database: str | None = None
    postgres_schema: str = "workflow_checkpoints"
    postgres_migration_connection_string: SecretStr | None = None
    postgres_setup: Literal["auto", "verify"] = "auto"
    postgres_setup_timeout: Seconds = 60.0
    postgres_pool_min_size: int = Field(default=2, ge=0, le=1000)
    postgres_pool_max_size: int = Field(default=10, ge=1, le=1000)
    postgres_pool_timeout: Seconds = 10.0
    postgres_pooler: Literal["none", "transaction"] = "none"
    postgres_connect_attempts: int = Field(default=5, ge=1, le=100)
    postgres_connect_backoff: Seconds = 0.5
    postgres_connect_timeout: Seconds = 10.0
    postgres_retry_for: Seconds = 30.0
    postgres_embedded_dir: Path | None = Field(
        default=None, validation_alias=AliasChoices("POSTGRES_EMBEDDED_DIR", "postgres_embedded_dir")
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise SettingsError(explain(exc)) from None

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object, info: Any) -> object:
        """Treat `NAME=` in an env file as not set, except for the flag, where it is unreadable."""
        if value == "" and info.field_name != "use_postgres_saver":
            return cls.model_fields[info.field_name].get_default(call_default_factory=True)
        return value

    @field_validator("postgres_schema")
    @classmethod
    def _schema_name(cls, value: str) -> str:
        if not _SCHEMA_NAME.fullmatch(value) or value.startswith("pg_"):
            raise PydanticCustomError(
                "schema_name",
                "takes lower-case letters, digits and underscores, at most 63, not beginning with pg_",
            )
        return value

    @field_validator("postgres_connection_string", "postgres_migration_connection_string")
    @classmethod
    def _conninfo(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                conninfo_to_dict(value.get_secret_value())
            except ProgrammingError:
                # The parser's own message may quote the password, so it is not passed on.
                raise PydanticCustomError(
                    "conninfo",
                    "takes a URI such as postgresql://user:password@host:5432/database, "
                    "or libpq's host=… port=… dbname=…",
                ) from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.postgres_pool_max_size < self.postgres_pool_min_size:
            raise PydanticCustomError(
                "pool_size", "POSTGRES_POOL_MAX_SIZE must not be below POSTGRES_POOL_MIN_SIZE"
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
        got = "***" if _SECRET_FIELDS.search(name) else repr(item["input"])
        message = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        takes = message if message.startswith("takes ") else f"takes: {message}"
        lines.append(f"{name}={got} can't be used: it {takes}" if name else message)
    return "; ".join(lines)


def mask_conninfo(conninfo: str) -> str:
    """The connection string as a URI to show: `postgresql://claude:***@localhost:5432/claude_studio`.

    Only host, port, user and database are shown; whatever else the string holds (a client key's password,
    a service file) stays out.
    """
    try:
        parts = conninfo_to_dict(conninfo)
    except ProgrammingError:
        return "postgresql://***"
    user = quote(str(parts.get("user") or ""), safe="")
    secret = ":***" if parts.get("password") else ""
    at = f"{user}{secret}@" if user or secret else ""
    host = str(parts.get("host") or parts.get("hostaddr") or "")
    where = quote(host, safe=",.-") if host.startswith("/") else host
    port = f":{parts['port']}" if parts.get("port") else ""
    return f"postgresql://{at}{where}{port}/{parts.get('dbname') or ''}"
