"""The checks of runs, of what is measured over time, and of what is kept."""

from __future__ import annotations

from checkpointer.metrics import LOAD_SECONDS, SAVE_SECONDS, QuickHistogram, errors_of
from orchestrator.errors import DatabaseUnavailableError
from orchestrator.health.finding import Finding, within
from orchestrator.health.snapshot import Snapshot
from orchestrator.health.subject import Subject

__all__ = [
    "check_errors",
    "check_growth",
    "check_loads",
    "check_queue",
    "check_retention",
    "check_runners",
    "check_saves",
    "check_stuck",
]

# The service levels; ops/prometheus/rules.yml alerts on the same.
_SAVE_P95_S = 0.05
_LOAD_P95_S = 0.1
_ERROR_SHARE = 0.01
# The first ones of a process make its connections, and are slow.
_ENOUGH = 100
_WAIT_WARN_S = 60.0
_WAIT_FAIL_S = 300.0
_GROWTH_BYTES_PER_HOUR = 1024**3
# Below that, a rate per hour is made of noise.
_WATCHED_LEAST_S = 60.0
# The settings that let something be forgotten.
_KEEPING = ("checkpoint_keep_last", "checkpoint_keep_for", "run_keep_for")


def _latest(subject: Subject) -> Snapshot:
    if subject.latest is None:
        raise DatabaseUnavailableError("PostgreSQL did not answer in time")
    return subject.latest


async def check_queue(subject: Subject) -> Finding:
    """What waits to be taken up, and for how long."""
    now = _latest(subject)
    jobs = ""
    if subject.database is not None and (await subject.database.ask("has_jobs", for_s=2.0))[0]["present"]:
        [row] = await subject.database.ask("waiting_jobs", for_s=2.0)
        jobs = f", {row['waiting']} jobs in the queue"
    return within(
        "queue",
        now.oldest_pending_s,
        "s",
        warn=_WAIT_WARN_S,
        fail=_WAIT_FAIL_S,
        message=f"{now.runs['pending']} runs wait{jobs}; the oldest that could begin, for {now.oldest_pending_s:.0f} s",
        remedy="start more workers or raise WORKER_CONCURRENCY; `holdfast runs ls --status pending` names them",
    )


async def check_runners(subject: Subject) -> Finding:
    """Whether somebody is alive to drive runs."""
    now = _latest(subject)
    if now.runners is None or now.drivers is None:
        return Finding("runners", "ok", "runs are driven by the process that starts them", 1, "processes")
    alive = ", ".join(f"{count} {kind}" for kind, count in now.runners.items() if count) or "none"
    # A database that nobody works on is all right while there is nothing to do.
    state = "ok" if now.drivers else "fail" if now.runs["pending"] else "warn"
    remedy = "start `holdfast serve` or `holdfast worker` with the same POSTGRES_SCHEMA"
    return Finding("runners", state, f"alive: {alive}", now.drivers, "processes", 1, remedy)  # type: ignore[arg-type]


async def check_stuck(subject: Subject) -> Finding:
    """Runs that should have been taken over, or tried again, by now."""
    now = _latest(subject)
    stuck = now.late_leases + now.late_retries
    return Finding(
        "stuck runs",
        "fail" if stuck else "ok",
        f"{now.late_leases} runs of lost workers and {now.late_retries} due retries that nobody has taken up",
        stuck,
        "runs",
        0,
        "see stuck runs in docs/runbook.md: start a worker that has their workflows; `holdfast runs ls` names them",
    )


async def check_saves(subject: Subject) -> Finding:
    """The 95th percentile of saves since this process began."""
    return _level("saves", SAVE_SECONDS, _SAVE_P95_S, subject)


async def check_loads(subject: Subject) -> Finding:
    """The 95th percentile of loads since this process began."""
    return _level("loads", LOAD_SECONDS, _LOAD_P95_S, subject)


def _level(name: str, histogram: QuickHistogram, limit_s: float, subject: Subject) -> Finding:
    # A check's own round trip is no measure of a service.
    p95 = histogram.quantile(0.95) if subject.serves else None
    if p95 is None:
        return Finding(name, "ok", "nothing was measured by this process yet", None, "s p95", limit_s)
    if histogram.count < _ENOUGH:
        message = f"{histogram.count} {name} since the start are too few to judge by"
        return Finding(name, "ok", message, p95, "s p95", limit_s)
    return within(
        name,
        p95,
        "s p95",
        warn=limit_s,
        message=f"95 % of {histogram.count} {name} since the start took at most {p95 * 1000:.1f} ms",
        remedy="see slow saves in docs/runbook.md: the server's disk, its load, the network, the size of checkpoints",
    )


async def check_errors(subject: Subject) -> Finding:
    """The share of saves and loads that failed for good since this process began."""
    done = SAVE_SECONDS.count + LOAD_SECONDS.count
    failed = errors_of("save") + errors_of("load")
    return within(
        "errors",
        failed / done if done else 0.0,
        "share",
        warn=0.0,
        fail=_ERROR_SHARE,
        message=f"{failed:.0f} of {done} saves and loads failed for good",
        remedy="look for [Checkpointer] and [POSTGRES] in the log; checkpointer_errors_total says of which kind",
    )


async def check_retention(subject: Subject) -> Finding:
    """Whether anything is ever forgotten."""
    told = {name: value for name in _KEEPING if (value := getattr(subject.settings, name, None)) not in (None, "")}
    if subject.database is None:
        return Finding("retention", "ok", "what is in memory goes with the process")
    if told:
        said = ", ".join(f"{name.upper()}={value}" for name, value in told.items())
        return Finding("retention", "ok", said, len(told), "settings")
    message = "nothing is ever forgotten: checkpoints and finished runs are kept for good"
    remedy = "set CHECKPOINT_KEEP_LAST or CHECKPOINT_KEEP_FOR; see `holdfast prune`"
    return Finding("retention", "warn", message, 0, "settings", 1, remedy)


async def check_growth(subject: Subject) -> Finding:
    """How much is stored, and how fast it grows."""
    if subject.database is None:
        return Finding("storage", "ok", "runs and checkpoints are in memory")
    now, first = _latest(subject), subject.first
    total = sum(now.storage.values())
    shown = f"{total / 1024**2:.1f} MiB in {len(now.storage)} tables"
    watched_s = now.taken - first.taken if first is not None else 0.0
    if first is None or watched_s < _WATCHED_LEAST_S:
        return Finding("storage", "ok", f"{shown}; how fast it grows is known after a minute", total, "bytes")
    per_hour = (total - sum(first.storage.values())) * 3600 / watched_s
    return within(
        "storage",
        per_hour,
        "bytes per hour",
        warn=_GROWTH_BYTES_PER_HOUR,
        message=f"{shown}; it grew by {per_hour / 1024**2:.1f} MiB per hour in the last {watched_s / 3600:.1f} hours",
        remedy="see growth in docs/runbook.md: CHECKPOINT_STORAGE=shared, CHECKPOINT_KEEP_LAST, `holdfast prune`",
    )
