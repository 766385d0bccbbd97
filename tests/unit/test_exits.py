from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable

import pytest

from orchestrator.engine.exits import contain_exits
from orchestrator.errors import ExitError


async def _leave() -> None:
    sys.exit(3)


async def _break_off() -> None:
    raise KeyboardInterrupt


async def _leave_in_a_thread() -> None:
    await asyncio.to_thread(sys.exit, 3)


@pytest.mark.parametrize("leave", [_leave, _break_off, _leave_in_a_thread])
def test_an_exit_fails_its_task_alone(leave: Callable[[], Awaitable[None]]) -> None:
    async def main() -> str:
        contain_exits(asyncio.get_running_loop())
        async with asyncio.timeout(60):
            ended, other = await asyncio.gather(leave(), asyncio.sleep(0, "alive"), return_exceptions=True)
        assert isinstance(ended, ExitError)
        assert isinstance(ended.__cause__, (SystemExit, KeyboardInterrupt))
        return str(other)

    assert asyncio.run(main()) == "alive"


def test_results_names_and_other_errors_are_as_ever() -> None:
    async def name() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    async def fail() -> None:
        raise ValueError("why")

    async def main() -> None:
        contain_exits(asyncio.get_running_loop())
        assert await asyncio.create_task(name(), name="run x") == "run x"
        with pytest.raises(ValueError, match="why"):
            await asyncio.create_task(fail())

    asyncio.run(main())


def test_a_task_that_is_cancelled_before_it_starts_is_quiet() -> None:
    async def main() -> None:
        contain_exits(asyncio.get_running_loop())
        task = asyncio.create_task(_leave())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
