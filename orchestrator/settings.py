"""Environment → one frozen `OrchestratorSettings`: the checkpointer's settings and the server's.

The rules are the checkpointer's: fields are the environment names in lower case, `.env` is read, real environment
variables win, and a value that does not parse raises `SettingsError` naming the variable.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from psycopg.conninfo import conninfo_to_dict
from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from checkpointer.settings import CheckpointerSettings, Flag, Seconds
from orchestrator.keeping import KeepFor

__all__ = ["DEFAULT_ORGANIZATION", "ORGANIZATION", "OrchestratorSettings", "parse_tokens"]

DEFAULT_ORGANIZATION = "default"
MIN_WORKER_TOKEN_CHARS = 16
_WORKER_TOKEN = re.compile(rf"[\x21-\x7e]{{{MIN_WORKER_TOKEN_CHARS},}}")
# What a header can hold: of anything else, clients send other bytes than were set.
_TOKEN = re.compile(r"[\x20-\x7e]+")
# No slash: it ends the organization in the id under which a thread's checkpoints are kept.
ORGANIZATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def _any_case(*words: str) -> BeforeValidator:
    def find(value: object) -> object:
        spelled = value.strip().casefold() if isinstance(value, str) else None
        return next((word for word in words if word.casefold() == spelled), value)

    return BeforeValidator(find)


class OrchestratorSettings(CheckpointerSettings):
    """How runs are kept and served, on top of how checkpoints are kept. Times are in seconds."""

    host: str = "127.0.0.1"
    """Address to serve; anything but a loopback address needs `API_TOKENS`."""
    port: int = Field(default=3456, ge=0, le=65535)
    """Port to serve; 0: any that is free, which the log then says."""
    api_tokens: SecretStr | None = None
    """Who may call: `token:organization,…`. Without it only a loopback address is served, to whoever reaches it."""
    log_format: Annotated[Literal["text", "json"], _any_case("text", "json")] = "text"
    """`json`: one object a line."""
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], _any_case("DEBUG", "INFO", "WARNING", "ERROR")
    ] = "INFO"
    """The least severe of what is written."""
    log_access: Flag = False
    """`true`: a line for each request to the server, too."""
    holdfast_model: str | None = None
    """A chat model for the workflows that ship with Holdfast, as LangChain's `init_chat_model` takes it (extra `llm`).
    Unset, they work offline."""
    documents_dir: Path | None = None
    """The directory below which the `path` of an extraction may name files. Unset: any file where the API takes no
    tokens (it serves loopback only then), none where it does."""
    run_lease_seconds: Seconds = 15.0
    """A server that has not renewed its leases for this long is taken to be frozen or cut off, and its runs go on
    elsewhere. One that is killed is noticed in a second or two whatever this says."""
    run_max_attempts: int = Field(default=3, ge=1, le=100)
    """How many servers may die under a run before it is failed."""
    drain_timeout: Seconds = 10.0
    """How long a stopping server lets its runs come to their next checkpoint."""
    queue_driver: Annotated[str, Field(min_length=1, max_length=100)] = "auto"
    """What carries runs to workers. `auto`: a run is begun by the process that starts it, if it has room, and
    otherwise goes through `postgres` (through `local` with the memory saver). `local`, `postgres`, or the name of
    an installed driver: everything goes through that one. See [workers](workers.md)."""
    worker_concurrency: int = Field(default=10, ge=1, le=10_000)
    """How many messages of the queue a process works on at once."""
    worker_token: SecretStr | None = None
    """What a worker shows at `/.well-known/workflow/v1/*`, at least 16 characters. Unset, they are closed."""
    job_prefix: str = Field(default="workflow_", pattern=r"^[A-Za-z0-9_.-]{0,32}$")
    """Begins the names of the postgres queue's queues."""
    app_url: str | None = None
    """Where a worker without graphs posts its messages to, such as `http://127.0.0.1:3456`."""
    run_keep_for: str | None = None
    """How long runs are kept once they are over: a time such as `30d`, or times by state and workflow such as
    `completed=7d,failed=90d,extraction:completed=1d,audit:*=forever`. Unset, for good. See
    [retention](retention.md)."""
    run_retention_every: Seconds = 60.0
    """Pause between looks for what may go, where one of these three is set."""
    checkpoint_keep_for: str | None = None
    """How long all checkpoints of a run are kept once it is over, written like `RUN_KEEP_FOR`; after that the last
    `CHECKPOINT_KEEP_LAST` of its thread, or the last one."""
    checkpoint_keep_last: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many checkpoints are kept of a thread on which no run goes on or rests."""
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where `holdfast worker` serves `/metrics`, at `HOST`; a server has it with its API. See
    [monitoring](monitoring.md)."""

    @field_validator("run_keep_for", "checkpoint_keep_for")
    @classmethod
    def _keep_for(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                KeepFor.parse(value)
            except ValueError as exc:
                raise PydanticCustomError("keep_for", "{problem}", {"problem": str(exc)}) from None
        return value

    @field_validator("worker_token")
    @classmethod
    def _worker_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _WORKER_TOKEN.fullmatch(value.get_secret_value()):
            raise PydanticCustomError(
                "worker_token",
                "takes at least {least} characters of ASCII without spaces: who knows it can have any run's code run",
                {"least": MIN_WORKER_TOKEN_CHARS},
            )
        return value

    @field_validator("api_tokens")
    @classmethod
    def _tokens(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_tokens(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _protected(self) -> Self:
        if self.api_tokens is None and not _is_loopback(self.host):
            raise PydanticCustomError(
                "unprotected",
                "HOST={host} can't be used without API_TOKENS: it would let anyone who reaches it start runs. "
                "Set API_TOKENS=token:organization,… or serve a loopback address such as 127.0.0.1",
                {"host": repr(self.host)},
            )
        return self

    @property
    def tokens(self) -> dict[str, str]:
        """Token → organization; empty where no token is asked for."""
        return parse_tokens(self.api_tokens.get_secret_value()) if self.api_tokens else {}

    @property
    def runs_keep_for(self) -> KeepFor | None:
        """How long runs are kept; None for good."""
        return None if self.run_keep_for is None else KeepFor.parse(self.run_keep_for)

    @property
    def checkpoints_keep_for(self) -> KeepFor | None:
        """How long all checkpoints of a run are kept once it is over; None where that is not set."""
        return None if self.checkpoint_keep_for is None else KeepFor.parse(self.checkpoint_keep_for)

    @property
    def readable_documents(self) -> Path | None:
        """The directory below which a payload may name files: DOCUMENTS_DIR, or None for anywhere.

        Who reaches a loopback address may read files anyway; who has a token may not, so with tokens and without a
        directory there is nothing to be read.
        """
        return self.documents_dir or (Path(os.devnull) if self.api_tokens else None)

    def secrets(self) -> list[str]:
        """Every secret value in use, for whoever has to keep them out of a message."""
        held = [self.postgres_password, self.api_tokens, self.checkpoint_encryption_keys, self.worker_token]
        values = [secret.get_secret_value() for secret in held if secret is not None] + list(self.tokens)
        addresses = [self.postgres_connection_string, self.postgres_migration_connection_string]
        for address in (secret.get_secret_value() for secret in addresses if secret is not None):
            parts = conninfo_to_dict(address)
            values += [address, *(str(parts[name]) for name in ("password", "sslpassword") if parts.get(name))]
        if self.checkpoint_encryption_keys is not None:
            keys = self.checkpoint_encryption_keys.get_secret_value().split(",")
            values += [key for entry in keys if (key := entry.strip().partition(":")[2])]
        return values


def parse_tokens(text: str) -> dict[str, str]:
    """`token:organization,token:organization` as a mapping; the message of its error holds no token."""
    tokens: dict[str, str] = {}
    for entry in text.split(","):
        token, _, organization = entry.strip().rpartition(":")
        if not _TOKEN.fullmatch(token) or not ORGANIZATION.fullmatch(organization):
            raise PydanticCustomError(
                "tokens",
                "takes token:organization,… where a token is ASCII without control characters, and an organization is "
                "1 to 63 letters, digits, dots, dashes and underscores",
            )
        if tokens.setdefault(token, organization) != organization:
            raise PydanticCustomError("tokens", "takes every token once, with one organization")
    return tokens


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
