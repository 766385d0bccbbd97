"""`handle_queue_message`: one call works on one message, where there is no worker that stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from checkpointer import CheckpointerSettings
from orchestrator import (
    InvalidRequestError,
    MessageData,
    Orchestrator,
    OrchestratorSettings,
    Role,
    Run,
    RunStatus,
    handle_queue_message,
    open_orchestrator,
)
from orchestrator.queues.driver import Handler
from orchestrator.runs.model import new_run_id
from tests.stepping import Journal, Stepping, calling, flaky, noted
from tests.worlds import postgres_world


class Outbox:
    """A driver that only keeps what is pushed, as a queue of a platform's does from here."""

    def __init__(self) -> None:
        self.messages: list[MessageData] = []

    async def push_flow(self, message: MessageData) -> None:
        self.messages.append(message)

    push_step = push_flow

    async def start(self, handle: Handler, *, queues: Sequence[str], concurrency: int) -> None:
        raise AssertionError("nothing is delivered here")

    async def stop(self) -> None: ...


async def node(state: Stepping) -> Stepping:
    return {"out": [await noted(state["journal"], "a")]}


GRAPHS = {"flow": calling(node)}


@pytest.fixture
def settings(checkpointer_settings: CheckpointerSettings) -> OrchestratorSettings:
    return postgres_world(checkpointer_settings).settings


class Platform:
    """What starts runs, and what delivers each message by a call of its own."""

    def __init__(self, settings: OrchestratorSettings, graphs: dict[str, Any]) -> None:
        self.settings = settings
        self.graphs = graphs
        self.outbox = Outbox()

    def opened(self) -> Any:
        return open_orchestrator(
            self.graphs, settings=self.settings, queue=self.outbox, role=Role("starter", works=False)
        )

    async def start(self, journal: Journal) -> Run:
        async with self.opened() as o:
            assert isinstance(o, Orchestrator)
            return await o.start("flow", {"journal": str(journal.directory)})

    async def poll(self, run: Run) -> Run:
        async with self.opened() as o:
            found: Run = await o.poll(run.run_id)
            return found

    async def handle(self, message: MessageData | dict[str, Any]) -> None:
        await handle_queue_message(message, graphs=self.graphs, settings=self.settings, queue=self.outbox)

    def take(self, kind: str) -> MessageData:
        """The only message of the kind, which may have been pushed more than once."""
        [message] = {message.id: message for message in self.outbox.messages if message.kind == kind}.values()
        self.outbox.messages.clear()
        return message


@pytest.mark.parametrize("form", ["object", "json"])
async def test_a_run_and_its_step(settings: OrchestratorSettings, journal: Journal, form: str) -> None:
    platform = Platform(settings, GRAPHS)
    run = await platform.start(journal)

    async def deliver(message: MessageData) -> None:
        await platform.handle(message if form == "object" else message.as_json())

    flow = platform.take("flow")
    assert (flow.kind, flow.id, flow.name, flow.queue) == ("flow", run.run_id, "flow", "flow")
    await deliver(flow)
    run = await platform.poll(run)
    assert run.waits_for_steps
    step = platform.take("step")
    assert (step.kind, step.name, step.queue) == ("step", "tests.stepping:noted", "step")
    await deliver(step)
    assert journal.ran == {"a": 1}
    assert (await platform.poll(run)).status is RunStatus.PENDING
    await deliver(flow)
    run = await platform.poll(run)
    assert run.status is RunStatus.COMPLETED
    assert run.output["out"] == ["a done"]
    # Delivered once more: there is nothing left to do.
    for message in (flow, step):
        await deliver(message)
    assert journal.ran == {"a": 1}
    assert await platform.poll(run) == run


async def test_a_step_that_is_to_be_retried(settings: OrchestratorSettings, journal: Journal) -> None:
    async def shaky(state: Stepping) -> Stepping:
        return {"out": [await flaky(state["journal"], "a", 1)]}

    platform = Platform(settings, {"flow": calling(shaky)})
    run = await platform.start(journal)
    flow = platform.take("flow")
    await platform.handle(flow)
    step = platform.take("step")
    await platform.handle(step)
    assert journal.ran == {"a": 1}
    await platform.handle(step)
    assert journal.ran == {"a": 2}
    await platform.handle(flow)
    assert (await platform.poll(run)).output["out"] == ["a done"]


@pytest.mark.parametrize("kind", ["flow", "step"])
@pytest.mark.parametrize("name", ["flow", "nothing"])
async def test_what_is_not_there_is_passed_over(settings: OrchestratorSettings, kind: Any, name: str) -> None:
    await Platform(settings, GRAPHS).handle(MessageData(kind, new_run_id(), name))


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"kind": "flow"},
        {"kind": "flow", "id": 5, "name": "flow"},
        {"kind": "other", "id": "1", "name": "flow"},
        {"kind": "flow", "id": "1", "name": "flow", "priority": "high"},
        {"kind": "flow", "id": "1", "name": "flow", "run_at": "soon"},
        {"kind": "step", "id": "1", "name": None},
    ],
)
async def test_what_is_no_message_is_refused(message: Any) -> None:
    with pytest.raises(InvalidRequestError, match="queue message"):
        await handle_queue_message(message, graphs=GRAPHS)


@pytest.mark.parametrize("kind", ["flow", "step"])
async def test_an_id_that_is_none(settings: OrchestratorSettings, kind: Any) -> None:
    """It may be some other program's message: it is dropped, as one about a run that is not there."""
    await Platform(settings, GRAPHS).handle(MessageData(kind, "no-uuid", "flow"))
