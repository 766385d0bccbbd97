"""What a storm did and what held: the table that is printed, and the JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.chaos.storm.checker import CHECKS, DUPLICATED, LOST, Records, Violation
from tests.chaos.storm.faults import Blow
from tests.chaos.storm.schedule import Kind

__all__ = ["Report", "recoveries"]

_HEADER = ("fault", "times", "runs hit", "recovery p50 / p95", "lost", "duplicated", "mark")
_MAX_SHOWN = 20
# Seconds that a run may take to go on elsewhere after a SIGKILL, and after a freeze on top of the lease.
_KILLED_MARK_S = 5.0
_FROZEN_MARK_S = 3.0


def recoveries(blow: Blow, records: Records, epoch_s: float) -> dict[str, float]:
    """Run → seconds from `blow.since` until its next node began, or it came to rest; never by the process that was hit.

    `epoch_s` is what is added to a monotonic time to get seconds since 1970. A run that was over by then was not hit.
    """
    since = blow.since + epoch_s
    over = {run["run_id"] for run in records.runs if run["completed_at"] and run["completed_at"] < since}
    rested: defaultdict[str, list[float]] = defaultdict(list)
    for state in records.states:
        rested[state["run_id"]].append(state["at"] - epoch_s)
    found: dict[str, float] = {}
    for run_id in blow.hit - over:
        times = [each.at for each in records.executions.get(run_id, ()) if each.pid != blow.pid]
        later = [time - blow.since for time in [*times, *rested[run_id]] if time > blow.since]
        if later:
            found[run_id] = min(later)
    return found


@dataclass(frozen=True)
class Line:
    """A kind of fault: how often it struck, how many runs it hit, how soon they went on, what became of them."""

    kind: Kind
    times: int
    hit: int
    seconds: Sequence[float]
    lost: int
    duplicated: int
    mark_s: float | None = None
    skipped: str | None = None

    @property
    def is_met(self) -> bool:
        """Whether the promised time was kept."""
        return self.mark_s is None or not self.seconds or quantile(self.seconds, 0.95) <= self.mark_s

    @property
    def recovery(self) -> str:
        """The median and the 95th percentile."""
        if not self.seconds:
            return "–"
        return f"{quantile(self.seconds, 0.5):.1f} / {quantile(self.seconds, 0.95):.1f} s"

    @property
    def mark(self) -> str:
        """What p95 may be, and whether it is."""
        if self.skipped:
            return f"skipped: {self.skipped}"
        return "" if self.mark_s is None else f"p95 ≤ {self.mark_s:g} s {'✓' if self.is_met else '✗'}"


def quantile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[max(ceil(share * len(values)) - 1, 0)]


@dataclass
class Report:
    """One storm. `tracebacks` counts those in the processes' logs, which are no violation."""

    seed: int
    minutes: float
    lease_s: float
    logs: Path
    blows: Sequence[Blow]
    records: Records
    violations: Sequence[Violation]
    epoch_s: float
    unanswered: Mapping[str, int] = field(default_factory=dict)
    watchers: int = 0
    tracebacks: int = 0

    @property
    def lost(self) -> int:
        """Runs that are not there, not over, or came to something else."""
        return len({each.run_id for each in self.violations if each.check in LOST})

    @property
    def duplicated(self) -> int:
        """Runs of which kept work was done again."""
        return len({each.run_id for each in self.violations if each.check in DUPLICATED})

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong. Times that were missed are shown, and depend on the machine."""
        return not self.violations

    def lines(self) -> list[Line]:
        """A line for each kind of fault, in the order of `Kind`."""
        return [line for kind in Kind if (line := self._line(kind)) is not None]

    def _line(self, kind: Kind) -> Line | None:
        blows = [blow for blow in self.blows if blow.fault.kind is kind]
        if not blows:
            return None
        struck = [blow for blow in blows if not blow.skipped]
        hit = set().union(*(blow.hit for blow in struck))
        seconds = [each for blow in struck for each in recoveries(blow, self.records, self.epoch_s).values()]
        marks = {Kind.KILL_WORKER: _KILLED_MARK_S, Kind.FREEZE_WORKER: self.lease_s + _FROZEN_MARK_S}
        return Line(
            kind,
            len(struck),
            len(hit),
            () if kind in (Kind.RAISE, Kind.BLOCK, Kind.LEAK) else seconds,
            len({each.run_id for each in self.violations if each.check in LOST} & hit),
            len({each.run_id for each in self.violations if each.check in DUPLICATED} & hit),
            marks.get(kind),
            next((blow.skipped for blow in blows if blow.skipped), None),
        )

    def show(self, console: Console) -> None:
        """Print the table, what was checked, and what does not hold."""
        table = Table(*_HEADER, box=box.SIMPLE)
        for row in self._rows():
            table.add_row(*row)
        console.print(table)
        wrong = defaultdict(list)
        for each in self.violations:
            wrong[each.check].append(each)
        for check, words in CHECKS.items():
            console.print(f"  {'✗' if wrong[check] else '✓'} {words}", highlight=False)
            for each in wrong[check][:_MAX_SHOWN]:
                run = f"run {each.run_id}: " if each.run_id else ""
                console.print(f"      {run}{each.what}", highlight=False, markup=False)
            if len(wrong[check]) > _MAX_SHOWN:
                console.print(f"      and {len(wrong[check]) - _MAX_SHOWN} more")
        console.print(f"\n{self.summary}", highlight=False, markup=False)

    @property
    def summary(self) -> str:
        """The figures of the whole, in a few lines."""
        sent = ", ".join(f"{n} {name}" for name, n in sorted(self.unanswered.items())) or "none"
        return (
            f"seed {self.seed}, {self.minutes:g} min, RUN_LEASE_SECONDS={self.lease_s:g}: "
            f"{len(self.records.runs)} runs, {sum(len(each) for each in self.records.executions.values())} executions, "
            f"{len(self.records.events)} rows of events, {self.watchers} watchers\n"
            f"requests sent again: {sent}; tracebacks in logs: {self.tracebacks}\n"
            f"lost: {self.lost}, duplicated: {self.duplicated}; logs: {self.logs}"
        )

    def _rows(self) -> Iterator[tuple[str, ...]]:
        for line in self.lines():
            figures = (str(line.times), str(line.hit), line.recovery, str(line.lost), str(line.duplicated))
            yield (line.kind.value, *figures, line.mark)

    def as_markdown(self) -> str:
        """The table, for docs/reliability.md."""
        rows = [_HEADER, ("---",) * len(_HEADER), *self._rows()]
        return "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines. Times are in seconds."""
        return {
            "seed": self.seed,
            "minutes": self.minutes,
            "leaseSeconds": self.lease_s,
            "runs": len(self.records.runs),
            "lost": self.lost,
            "duplicated": self.duplicated,
            "holds": self.holds,
            "faults": [
                {
                    "fault": line.kind.value,
                    "times": line.times,
                    "runsHit": line.hit,
                    "recoverySeconds": [round(each, 3) for each in sorted(line.seconds)],
                    "lost": line.lost,
                    "duplicated": line.duplicated,
                    "markSeconds": line.mark_s,
                    "met": line.is_met,
                    "skipped": line.skipped,
                }
                for line in self.lines()
            ],
            "violations": [{"check": each.check, "runId": each.run_id, "what": each.what} for each in self.violations],
            "requestsSentAgain": dict(self.unanswered),
            "logs": str(self.logs),
        }
