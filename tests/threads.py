"""Threads for tests of moving them: made up, with everything that a saver can be asked to keep."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, TASKS
from langgraph.types import Interrupt, Send

from checkpointer.serde import AllowListSerializer
from tests.checkpoints import at, checkpoint, history

__all__ = ["LISTED", "Part", "made_up", "told"]


@dataclass
class Part:
    """A type of the user's."""

    name: str
    sizes: tuple[int, ...] = ()


LISTED = AllowListSerializer([(__name__, "Part")])
_NAMESPACES = ("", "", "", "inner:1", "inner:1|deeper:2")
_CHANNELS = ("text", "number", "list", "part", "anything")


def _value(chance: random.Random, depth: int = 0) -> Any:
    simple = (None, True, 0, -1, 3.5, 1e300, "", "a\0b", "é😀", b"\x00\xff", 2**62, {"$type": "mine", "$": [1]})
    kind = chance.randrange(6 if depth < 3 else 2)
    if kind < 2:
        return chance.choice(simple)
    if kind == 2:
        return [_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind == 3:
        return {f"k{number}": _value(chance, depth + 1) for number in range(chance.randrange(4))}
    if kind == 4:
        return Part(chance.choice("abc"), tuple(range(chance.randrange(3))))
    return chance.choice(({1, 2, 3}, (1, "two"), {1: "one"}, AIMessage("hi", id="1"), Send("node", {"piece": 1})))


async def made_up(saver: BaseCheckpointSaver[Any], thread: str, seed: int, length: int = 12) -> None:
    """A thread with forks, namespaces, growing lists and pending writes of all kinds; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 - made-up data
    past: dict[str, list[tuple[str, dict[str, Any], dict[str, Any]]]] = {}
    for step in range(length):
        namespace = chance.choice(_NAMESPACES)
        known = past.setdefault(namespace, [])
        parent, values, versions = (
            chance.choice(known) if known and chance.random() < 0.3 else known[-1] if known else (None, {}, {})
        )
        changed = {name: _value(chance) for name in chance.sample(_CHANNELS, chance.randrange(4))}
        changed["grows"] = [*values.get("grows", ()), AIMessage(f"message {step}", id=str(step))]
        made = checkpoint(changed)
        versions = {**versions, **made["channel_versions"]}
        new = dict(made["channel_versions"])
        values = {**values, **changed}
        if "text" in values and chance.random() < 0.2:  # a channel that was emptied
            del values["text"]
            versions["text"] = new["text"] = f"{step + 10_000:032}.1"
        made["v"], made["channel_values"], made["channel_versions"] = 4, values, dict(versions)
        about = cast("CheckpointMetadata", {"source": "loop", "step": step, "parents": {"": made["id"]}, "tag": "x"})
        saved = await saver.aput(at(thread, parent, ns=namespace), made, about, new)
        known.append((made["id"], values, versions))
        for task in range(chance.randrange(3)):
            writes = [(name, _value(chance)) for name in chance.sample(_CHANNELS, chance.randrange(1, 4))]
            writes.insert(chance.randrange(len(writes) + 1), chance.choice(_special(chance)))
            await saver.aput_writes(saved, writes, f"task-{task}", chance.choice(("", "~a, 1", "~b", "~a, 10")))


def _special(chance: random.Random) -> list[tuple[str, Any]]:
    question = Interrupt(value=_value(chance), id="1")
    return [(RESUME, ["yes"]), (INTERRUPT, (question,)), (ERROR, "broke"), (TASKS, Send("node", _value(chance)))]


async def told(saver: BaseCheckpointSaver[Any], thread: str) -> dict[str, Any]:
    """All that a saver says of a thread: each checkpoint, listed and by id, and what DeltaChannels ask for."""
    found = sorted(await history(saver, thread), key=lambda one: (one.checkpoint["id"], _namespace(one)))
    channels = sorted({name for one in found for name in one.checkpoint["channel_versions"]})
    by_id = [await saver.aget_tuple(one.config) for one in found]
    return {
        "listed": [_shown(one) for one in found],
        "by id": [_shown(one) for one in by_id if one is not None],
        "deltas": [
            await saver.aget_delta_channel_history(config=one.config, channels=channels) for one in found if channels
        ],
    }


def _shown(one: CheckpointTuple) -> Mapping[str, Any]:
    parent = (one.parent_config or {}).get("configurable", {}).get("checkpoint_id")
    return {
        "place": (_namespace(one), one.checkpoint["id"], parent),
        "checkpoint": one.checkpoint,
        "metadata": json.loads(json.dumps(one.metadata)),  # JSON knows no tuples
        "writes": one.pending_writes,
    }


def _namespace(one: CheckpointTuple) -> str:
    return str(one.config["configurable"].get("checkpoint_ns", ""))
