"""A watcher that is cut off again and again, while the server that works is killed: every event once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path

import httpx
import pytest

from tests.chaos.fleet import Fleet, open_fleet
from tests.chaos.streaming import NODES
from tests.proxy import Proxy
from tests.sse import Message, messages
from tests.waiting import until

pytestmark = pytest.mark.chaos
CUTS = 10
COUNT = 50


class Watcher:
    """Follows a run through proxies in turn, going on after what it has seen last."""

    def __init__(self, run_id: str, proxies: Sequence[Proxy]) -> None:
        self.seen: list[Message] = []
        # Of so many answers it has seen something.
        self.heard = 0
        self._path = f"/api/runs/{run_id}/events"
        self._ports = cycle(proxy.port for proxy in proxies)

    async def follow(self) -> None:
        """Until there is nothing more to come."""
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            urls = (f"http://127.0.0.1:{port}{self._path}" for port in self._ports)
            while not await self._followed(client, next(urls)):
                pass

    async def _followed(self, client: httpx.AsyncClient, url: str) -> bool:
        headers = {"Last-Event-ID": str(self.seen[-1].id)} if self.seen else {}
        try:
            async with client.stream("GET", url, headers=headers) as answer:
                if answer.status_code == 204:
                    return True
                assert answer.status_code in (200, 503), answer.status_code
                is_new = True
                async for message in messages(answer.aiter_lines()):
                    if message.id is not None:
                        self.seen.append(message)
                        self.heard += is_new
                        is_new = False
        except httpx.TransportError:
            # As a client does that was cut off, or finds nobody there.
            await asyncio.sleep(0.05)
        return False

    def shown(self) -> list[tuple[int, int]]:
        """What nodes have shown, in the order in which it came."""
        custom = [each.data["payload"] for each in self.seen if each.event == "custom"]
        return [(payload["node"], payload["number"]) for payload in custom]


@asynccontextmanager
async def _proxies(fleet: Fleet) -> AsyncIterator[list[Proxy]]:
    async with AsyncExitStack() as stack:
        ways = [Proxy.to("127.0.0.1", server.port) for server in fleet.servers]
        yield [await stack.enter_async_context(way) for way in ways]


async def test_a_watcher_that_is_cut_off_sees_every_event_once(postgres_dsn: str, tmp_path: Path) -> None:
    async with open_fleet(tmp_path, postgres_dsn, 2) as fleet:
        async with _proxies(fleet) as proxies:
            run_id = await fleet.invoke(fleet.servers[0], "showing", {"count": COUNT, "pause_s": 0.1})
            watcher = Watcher(run_id, proxies)
            following = asyncio.create_task(watcher.follow())
            for cut in range(1, CUTS + 1):
                await until(lambda n=cut: watcher.heard >= n, what="it sees more")  # type: ignore[misc]
                if cut == CUTS // 2:
                    victim = fleet.driver(fleet.journal.entered(run_id)[-1])
                    await fleet.kill_inside(victim)
                    restart = asyncio.create_task(victim.start())
                for proxy in proxies:
                    proxy.cut()
            fleet.open("quick")
            await asyncio.wait_for(following, 90)
            await restart
        [row] = await fleet.completed(run_id)
        assert [each.id for each in watcher.seen] == [str(n) for n in range(1, row["event_count"] + 1)]
        assert row["losses"] == 1
        assert watcher.heard > CUTS
        _check(fleet, run_id, watcher)


def _check(fleet: Fleet, run_id: str, watcher: Watcher) -> None:
    """What every execution of a node has shown is there, in its order; that of the killed one up to where it was."""
    begun = [entry.node for entry in fleet.journal.entered(run_id)]
    assert len(begun) == NODES + 1
    left = watcher.shown()
    for index, node in enumerate(begun):
        number = int(node.removeprefix("n"))
        is_killed = begun[index + 1 : index + 2] == [node]
        shown = 0
        while left and left[0] == (number, shown):
            left.pop(0)
            shown += 1
        assert shown <= COUNT if is_killed else shown == COUNT, (node, shown)
    assert left == []
    states = [each.data["status"] for each in watcher.seen if each.event == "state"]
    assert states == ["running", "pending", "running", "completed"], states
