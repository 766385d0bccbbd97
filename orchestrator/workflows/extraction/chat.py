"""Chat models, from LangChain, for whoever sets one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from orchestrator.workflows.extraction.errors import ModelSupportError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["load_chat_model"]


def load_chat_model(name: str) -> BaseChatModel:
    """Make the chat model that LangChain knows under `name`, such as "provider:model"."""
    try:
        # Imported late and by name: LangChain is an extra, and slow to import.
        chat_models = import_module("langchain.chat_models")
    except ImportError as exc:
        raise ModelSupportError(
            f"the model {name!r} is set, but LangChain is not installed: pip install 'holdfast[llm]'"
        ) from exc
    try:
        return cast("BaseChatModel", chat_models.init_chat_model(name))
    except ImportError as exc:
        raise ModelSupportError(
            f"the model {name!r} needs a package of its provider besides 'holdfast[llm]': {exc}"
        ) from exc
