"""The loop of background services: it survives failures, and ends when it is told to."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from orchestrator.engine import ticker
from orchestrator.engine.ticker import Ticker


async def test_it_ends_though_a_cancellation_got_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `asyncio.wait_for` of Python 3.11, when what it waits for comes at the same moment."""
    monkeypatch.setattr(ticker, "_CANCEL_AGAIN_AFTER_S", 0.01)
    begun = asyncio.Event()
    lost: list[int] = []

    async def tick() -> None:
        begun.set()
        if not lost:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            lost.append(1)

    ticking = Ticker("test", tick, every_s=3600)
    ticking.start()
    await begun.wait()
    async with asyncio.timeout(60):
        await ticking.stop()
    assert lost
    await ticking.stop()


async def test_a_tick_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    ticks: list[int] = []
    done = asyncio.Event()

    async def tick() -> None:
        ticks.append(1)
        if len(ticks) == 1:
            raise ValueError("once")
        done.set()

    ticking = Ticker("test", tick, every_s=0.001)
    ticking.start()
    async with asyncio.timeout(60):
        await done.wait()
    await ticking.stop()
    assert caplog.text.count("test failed and will be tried again") == 1


async def test_one_that_was_not_started_can_be_stopped() -> None:
    async with asyncio.timeout(60):
        await Ticker("test", asyncio.Event().wait, every_s=1).stop()  # type: ignore[arg-type]
