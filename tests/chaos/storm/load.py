"""A client that starts runs at a steady rate, answers those that ask, and watches some of them.

It does what a careful client does: every run has an idempotency key, and what got no answer is sent again.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from tests.sse import messages

__all__ = ["Accepted", "Load", "Watched"]

_MIX = {"chain": 28, "fan": 12, "asking": 14, "flaky": 10, "stepping": 10, "family": 8, "talk": 12, "showing": 6}
_CONVERSATIONS = 5
_UNANSWERED = 0.1
_WATCHED = 0.15
_HANG_UP = 0.08
_AGAIN_AFTER_S = 0.2
_ANSWER_WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run that the API said it has."""

    run_id: str
    workflow: str
    given: Mapping[str, Any]


@dataclass(slots=True)
class Watched:
    """The ids of the events that a watcher saw, in order, over all its connections."""

    run_id: str
    seen: list[int] = field(default_factory=list)
    connections: int = 0
    is_over: bool = False


class Load:
    """`rate` runs a second, chosen by `seed`."""

    def __init__(self, url: str, *, seed: int, rate: float) -> None:
        self.accepted: dict[str, Accepted] = {}
        self.watched: list[Watched] = []
        self.problems: list[str] = []
        self.unanswered: Counter[str] = Counter()
        self._random = Random(seed)  # noqa: S311 - repeatable, not secret
        self._seed = seed
        self._rate = rate
        self._number = 0
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._under_way: set[asyncio.Task[None]] = set()
        self._client = httpx.AsyncClient(
            base_url=url, timeout=_ANSWER_WITHIN_S, trust_env=False, limits=httpx.Limits(max_connections=None)
        )

    async def run(self) -> None:
        """Start runs until this is cancelled."""
        clock = asyncio.get_running_loop().time
        began = clock()
        started = 0
        while True:
            # Behind after a busy moment, it catches up.
            while started < (clock() - began) * self._rate:
                self._begin(*self._drawn())
                started += 1
            await asyncio.sleep(0.5 / self._rate)

    async def start(self, workflow: str, **given: Any) -> Accepted:
        """Have one more run accepted."""
        self._number += 1
        return await self._accept(self._number, workflow, given, None)

    async def drain(self, timeout_s: float) -> None:
        """Wait until everything is accepted, answered and seen to its end."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=timeout_s)
            self.problems += [f"{task.get_name()} was not done within {timeout_s:g} s" for task in late]

    async def close(self) -> None:
        """Stop whatever is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._client.aclose()

    def _drawn(self) -> tuple[str, dict[str, Any], str | None]:
        """A workflow, its input, and the thread of a conversation."""
        draw = self._random
        [workflow] = draw.choices(list(_MIX), list(_MIX.values()))
        given: dict[str, Any] = {"pace_s": round(draw.uniform(0.02, 0.5), 3)}
        if workflow == "talk":
            return workflow, {**given, "said": [draw.randrange(1000)]}, f"talk {draw.randrange(_CONVERSATIONS)}"
        given["value"] = draw.randrange(1000)
        if workflow == "asking":
            given["answer"] = None if draw.random() < _UNANSWERED else draw.randrange(1000)
        return workflow, given, None

    def _begin(self, workflow: str, given: Mapping[str, Any], thread_id: str | None) -> None:
        self._number += 1
        work = self._one(self._number, workflow, given, thread_id, Random(f"{self._seed} {self._number}"))  # noqa: S311
        task = asyncio.create_task(work, name=f"the client of run {self._number}, {workflow},")
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.problems.append(f"{task.get_name()} failed: {error!r}")

    async def _one(
        self, number: int, workflow: str, given: Mapping[str, Any], thread_id: str | None, draw: Random
    ) -> None:
        async with self._turns[thread_id or f"run {number}"]:
            # Turns of a conversation are sent one after the other, so that their order is known.
            run = await self._accept(number, workflow, given, thread_id)
        waits_for_good = workflow == "asking" and given["answer"] is None
        work = []
        if not waits_for_good and (workflow == "showing" or draw.random() < _WATCHED):
            work.append(self._watch(run, draw))
        if workflow == "asking" and not waits_for_good:
            work.append(self._answer(run, given["answer"], draw.uniform(0, 2)))
        await asyncio.gather(*work)

    async def _accept(self, number: int, workflow: str, given: Mapping[str, Any], thread_id: str | None) -> Accepted:
        body = {"workflow": workflow, "input": given, "idempotencyKey": f"storm {self._seed} {number}"}
        answer = await self._post("/api/invoke/async", body if thread_id is None else {**body, "threadId": thread_id})
        run = Accepted(answer["runId"], workflow, given)
        self.accepted[run.run_id] = run
        return run

    async def _answer(self, run: Accepted, answer: int, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._post(f"/api/runs/{run.run_id}/signals/approval", {"payload": answer, "key": "the answer"})

    async def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer, once there is one. Raises `ValueError` where the request is refused for good."""
        while True:
            try:
                answer = await self._client.post(path, json=body)
            except httpx.TransportError as exc:
                self.unanswered[type(exc).__name__] += 1
            else:
                if answer.is_success:
                    return answer.json()
                if answer.status_code < 500:
                    raise ValueError(f"POST {path} was answered {answer.status_code}: {answer.text[:300]}")
                self.unanswered[str(answer.status_code)] += 1
            await asyncio.sleep(_AGAIN_AFTER_S)

    async def _watch(self, run: Accepted, draw: Random) -> None:
        """Follow the run to its end, hanging up at random, and going on after what was seen last."""
        watched = Watched(run.run_id)
        self.watched.append(watched)
        while not watched.is_over:
            try:
                await self._listen(watched, draw)
            except httpx.TransportError as exc:
                self.unanswered[type(exc).__name__] += 1
                await asyncio.sleep(_AGAIN_AFTER_S)

    async def _listen(self, watched: Watched, draw: Random) -> None:
        headers = {"Last-Event-ID": str(watched.seen[-1])} if watched.seen else {}
        path = f"/api/runs/{watched.run_id}/events"
        timeout = httpx.Timeout(_ANSWER_WITHIN_S, read=30)
        async with self._client.stream("GET", path, headers=headers, timeout=timeout) as answer:
            if answer.status_code >= 500:
                self.unanswered[str(answer.status_code)] += 1
                await asyncio.sleep(_AGAIN_AFTER_S)
                return
            if not answer.is_success:
                raise ValueError(f"GET {path} was answered {answer.status_code}")
            watched.is_over = answer.status_code == 204
            watched.connections += 1
            async for message in messages(answer.aiter_lines()):
                if message.id is not None:
                    watched.seen.append(int(message.id))
                    if draw.random() < _HANG_UP:
                        return
