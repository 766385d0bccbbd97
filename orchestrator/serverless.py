"""For where there is no long-running worker: one call works on one message.

    async def handler(event, context):                      # whatever the platform calls
        for record in event["Records"]:
            await handle_queue_message(json.loads(record["body"]), graphs={"agent": builder})

Nothing is kept between calls: each opens what it needs and closes it again. A run whose call is cut off by the platform
goes on when its lease has lapsed, or its connection is gone, in whichever process looks next.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.engine.graphs import Graph
from orchestrator.opening import Role, open_orchestrator
from orchestrator.queues.driver import MessageData, QueueDriver
from orchestrator.queues.worker import function_proxy
from orchestrator.settings import OrchestratorSettings

__all__ = ["handle_queue_message"]


async def handle_queue_message(
    message: MessageData | Mapping[str, object],
    *,
    graphs: Mapping[str, Graph],
    settings: OrchestratorSettings | None = None,
    queue: QueueDriver | None = None,
) -> None:
    """Work on one message to the end of the attempt or the step. `message` may be what `MessageData.as_json` gave.

    A message that is not needed any more (its run was taken up, or is over) is passed over. Raises
    `InvalidRequestError` for what is no message, and what `open_orchestrator` raises.
    """
    data = message if isinstance(message, MessageData) else MessageData.from_json(message)
    role = Role("serverless", works=False)
    async with open_orchestrator(graphs, settings=settings, queue=queue, role=role) as orchestrator:
        await function_proxy(orchestrator)(data)
