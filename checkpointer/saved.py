"""Tells whoever asked that a checkpoint is committed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from langchain_core.runnables import RunnableConfig

__all__ = ["Saved", "on_saved"]

Saved: TypeAlias = Callable[[RunnableConfig, Mapping[str, Any]], None]

# Called with the config of each checkpoint and its metadata after its commit, for saves made in this context.
on_saved: ContextVar[Saved | None] = ContextVar("holdfast_on_saved", default=None)
