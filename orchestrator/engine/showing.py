"""Lets an attempt's nodes be seen at work: what they give the stream writer, what models say, what is saved.

LangGraph's `custom` and `messages` stream modes would do, and cost every step of every run a task or a callback. Here
the writer is handed in by the runtime, and a callback is added only where a chat model can have been called: where the
class of chat models was imported.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import CONFIG_KEY_RUNTIME, CONFIG_KEY_STREAM
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import Runtime

from checkpointer.saved import on_saved
from orchestrator.engine.activities import ActivityTrail

__all__ = ["showing"]

_CHAT_MODELS = "langchain_core.language_models.chat_models"
_NO_STREAM = "nostream"  # langgraph.constants.TAG_NOSTREAM


@contextmanager
def showing(trail: ActivityTrail, config: RunnableConfig) -> Iterator[RunnableConfig]:
    """The config with which a graph shows what it does on the attempt's trail."""
    stream = StreamProtocol(lambda chunk: None, set())
    runtime: Runtime[Any] = Runtime(stream_writer=trail.custom)
    shown: RunnableConfig = {
        **config,
        "configurable": {**config["configurable"], CONFIG_KEY_STREAM: stream, CONFIG_KEY_RUNTIME: runtime},
    }
    if _CHAT_MODELS in sys.modules:
        shown["callbacks"] = [_Tokens(trail)]

    def saved(saved_as: RunnableConfig, metadata: Mapping[str, Any]) -> None:
        # A node may call a graph of its own, on another thread.
        ids = saved_as["configurable"]
        if not ids.get("checkpoint_ns") and ids["thread_id"] == config["configurable"]["thread_id"]:
            trail.saved(str(ids["checkpoint_id"]), metadata)

    token = on_saved.set(saved)
    try:
        yield shown
    finally:
        on_saved.reset(token)


class _Tokens(BaseCallbackHandler):
    """Shows what chat models say, piece by piece where they stream, else at once. Its being there makes them stream.

    Chat models stream for whoever has the methods of LangChain's `_StreamingCallbackHandler`. It must not be a subclass
    of that: for one LangGraph streams every node too, and a subgraph's result is then its whole state, not its output.
    """

    run_inline = True

    def __init__(self, trail: ActivityTrail) -> None:
        self._trail = trail
        self._speaking: dict[UUID, tuple[str, bool]] = {}

    @property
    def ignore_chain(self) -> bool:
        return True

    def tap_output_aiter(self, run_id: UUID, output: Any) -> Any:
        return output

    def tap_output_iter(self, run_id: UUID, output: Any) -> Any:
        return output

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[Any]],
        *,
        run_id: UUID,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if _NO_STREAM not in (tags or ()):
            self._speaking[run_id] = str((metadata or {}).get("langgraph_node", "")), False

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        if run_id in self._speaking:
            activity, _ = self._speaking[run_id]
            self._speaking[run_id] = activity, True
            # A model may speak in blocks, of which some are text.
            self._say(run_id, activity, token if isinstance(token, str) else _text_of(kwargs.get("chunk")))

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        activity, has_streamed = self._speaking.pop(run_id, ("", True))
        if not has_streamed and response.generations and response.generations[0]:
            self._say(run_id, activity, response.generations[0][0].text)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._speaking.pop(run_id, None)

    def _say(self, run_id: UUID, activity: str, text: Any) -> None:
        if isinstance(text, str):
            self._trail.message(str(run_id), activity, text)


def _text_of(chunk: Any) -> Any:
    return chunk.message.text if isinstance(chunk, ChatGenerationChunk) else None
