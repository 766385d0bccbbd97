"""Runs that survive a kill, to watch: `./scripts/demo [text or Markdown files]`.

Starts `holdfast serve` with the flag on (it brings its own embedded PostgreSQL), submits documents, kills the
server with SIGKILL halfway, starts it again, and shows from the runs' own traces that no finished stage ran twice.
Then the same server with the flag off. All of it lives in a temporary directory and on a free port, and is gone at
the end, however the demo ends.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import httpx
from rich.console import Console

from demo_parts.database import stop_postgres
from demo_parts.display import heading, new_console, note, show_evidence, show_json, watch
from demo_parts.errors import DemoError, StoppedError
from demo_parts.runs import STAGES, DemoRun, Document, Evidence, examine, read_documents, submit
from demo_parts.server import Server

ROOT = Path(__file__).resolve().parent.parent
POLL_EVERY_S = 0.1
RUNS_TIMEOUT_S = 90.0
HEALTH = "/api/health/checkpointer"
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def own_documents() -> list[Path]:
    """The project's documents: enough to watch, not more than fit on a screen."""
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    return [path for path in (*named, *sorted((ROOT / "docs").glob("*.md"))) if path.is_file()][:8]


def poll(console: Console, server: Server, runs: Sequence[DemoRun], enough: Callable[[], bool]) -> None:
    """Show the runs until `enough` says so."""
    deadline = time.monotonic() + RUNS_TIMEOUT_S
    with watch(console) as display:
        while True:
            for run in runs:
                if not run.finished:
                    run.refresh(server)
            display.show(runs)
            if enough():
                return
            if time.monotonic() > deadline:
                states = ", ".join(f"{run.title}: {run.status} {run.done}/{len(STAGES)}" for run in runs)
                raise DemoError(f"the runs did not get there within {RUNS_TIMEOUT_S:.0f} s; {states}")
            time.sleep(POLL_EVERY_S)


def start(console: Console, server: Server, *, durable: bool) -> None:
    flag = "true" if durable else "false"
    heading(console, f"Starting: USE_POSTGRES_SAVER={flag} holdfast serve   (port {server.port})")
    seconds = server.start(durable=durable)
    note(console, f"up after {seconds:.1f} s as process {server.pid}")


def run_until_kill(console: Console, server: Server, documents: list[Document], throttle_s: float) -> list[DemoRun]:
    """Submit the documents and kill the server when every run is about halfway."""
    heading(console, f"Submitting {len(documents)} documents to the workflow `extraction` ({' > '.join(STAGES)})")
    runs = [submit(server, document, throttle_s) for document in documents]

    def halfway() -> bool:
        return all(run.done >= 2 for run in runs) or any(run.done >= len(STAGES) - 1 for run in runs)

    poll(console, server, runs, halfway)
    server.kill()
    for run in runs:
        run.done_at_kill = run.done
    heading(console, f"Killed the server: SIGKILL to process {server.pid}, in the middle of {len(runs)} runs")
    return runs


def survive(console: Console, server: Server, documents: list[Document], throttle_s: float) -> list[Evidence]:
    """The kill and the way back; what the finished runs' traces prove."""
    first_pid = server.pid
    runs = run_until_kill(console, server, documents, throttle_s)
    killed_at = datetime.now(UTC)
    start(console, server, durable=True)
    heading(console, "The same runs go on where they were")
    poll(console, server, runs, lambda: all(run.finished for run in runs))
    found = [examine(run, first_pid, server.pid, killed_at) for run in runs]
    heading(console, f"Stages that ran before the kill (process {first_pid}) and after it (process {server.pid})")
    show_evidence(console, found)
    return found


def expect_health(console: Console, server: Server, name: str) -> None:
    """Show the health answer; fail where another saver is in use."""
    heading(console, "Health")
    answer = server.get(HEALTH)
    show_json(console, f"GET {HEALTH}", answer)
    if (answer["status"], answer["checkpointer"]) != ("healthy", name):
        raise DemoError(f"expected a healthy {name}; {HEALTH} says {answer['status']} {answer['checkpointer']}")
    if (name == "MemorySaver") != (answer.get("durable") is False):
        raise DemoError(f"{HEALTH} says durable={answer.get('durable')} for {name}")


def story(console: Console, server: Server, documents: list[Document], throttle_s: float) -> str:
    """All of it, in order; returns the summary."""
    start(console, server, durable=True)
    found = survive(console, server, documents, throttle_s)
    expect_health(console, server, "PostgresSaver")
    server.stop_cleanly()
    start(console, server, durable=False)
    expect_health(console, server, "MemorySaver")
    server.stop_cleanly()
    before = sum(len(item.before) for item in found)
    after = sum(len(item.after) for item in found)
    return (
        f"{len(found)} runs survived a SIGKILL: {before} stages were done before it and kept, "
        f"{after} ran after it, none ran twice"
    )


@contextmanager
def workplace(console: Console) -> Iterator[Server]:
    """A server to use in a directory of its own; afterwards nothing of it is left."""
    # The embedded PostgreSQL does not take a path with a space in it.
    usual = tempfile.gettempdir()
    parent = usual if shlex.quote(usual) == usual else "/tmp"
    # Resolved, since PostgreSQL writes down the real path of its data, and /tmp may be a link.
    directory = Path(tempfile.mkdtemp(prefix="holdfast-demo-", dir=parent)).resolve()
    # As root PostgreSQL runs as a user of its own, who has to be able to walk down to its data.
    directory.chmod(0o755)
    server = Server(directory, directory / "postgres")
    try:
        yield server
    except StoppedError:
        raise
    except Exception:
        if tail := server.log_tail():
            heading(console, "The demo failed. The end of the server's log:")
            console.print(tail, markup=False, soft_wrap=True)
        raise
    finally:
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        try:
            server.http.close()
            server.stop()
            stop_postgres(server.database)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def stop_on_signals() -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise StoppedError(number)

    for number in STOPPING:
        # Started by nohup, it is to go on when the terminal is gone.
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Watch runs survive a SIGKILL of their server.")
    parser.add_argument("files", nargs="*", type=Path, help="text or Markdown (default: the project's own documents)")
    parser.add_argument(
        "--throttle", type=float, default=0.6, metavar="SECONDS", help="pause in every stage (default: 0.6)"
    )
    options = parser.parse_args()
    # Less, and the runs may be over before the kill; more, and it takes minutes.
    if not 0.2 <= options.throttle <= 10:
        parser.error("--throttle takes 0.2 to 10 seconds")
    return options


def main() -> int:
    options = arguments()
    console = new_console()
    began = time.monotonic()
    stop_on_signals()
    try:
        documents = read_documents(options.files or own_documents())
        with workplace(console) as server:
            summary = story(console, server, documents, options.throttle)
    except StoppedError as exc:
        console.print(f"\nStopped by {signal.Signals(exc.signal_number).name}; everything was cleaned up")
        return 128 + exc.signal_number
    except (DemoError, httpx.HTTPError) as exc:
        print(f"error: {str(exc) or type(exc).__name__}", file=sys.stderr)
        return 1
    heading(console, f"Done in {time.monotonic() - began:.0f} s, and cleaned up")
    note(console, f"{summary}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
