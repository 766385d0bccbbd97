"""How an attempt reaches a worker: messages, drivers that carry them, and proxies to the code."""

from orchestrator.queues.driver import Handler, MessageData, QueueDriver

__all__ = ["Handler", "MessageData", "QueueDriver"]
