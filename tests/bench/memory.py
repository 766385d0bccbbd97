"""Resident memory while 400 savers wait behind a full queue, in a process of its own.

`python -m tests.bench.memory DSN` opens our saver, lets 400 savers save incompressible values while the tables are
locked, so that the queue fills, then lets go and has each of them save a few times more. It prints as JSON what was
resident when idle and at the most. The values themselves are the savers' own and count too.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
from langgraph.checkpoint.base import Checkpoint
from prometheus_client import REGISTRY

from checkpointer.postgres.batching import Limits
from tests.bench.contenders import Saver, open_ours
from tests.bench.figures import Figure
from tests.bench.workloads import history_of, metadata_of, thread_config
from tests.waiting import until

__all__ = ["memory_figure"]

_SAVERS = 400
_VALUE_BYTES = 200_000  # 400 of them are more than the queue takes
_SAVES_EACH = 3
_MARK_MB = 300.0
_MB = 1_000_000


def memory_figure(dsn: str) -> Figure:
    """Megabytes over idle, at the most, of a fresh process."""
    command = [sys.executable, "-m", "tests.bench.memory", dsn]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seen = json.loads(printed)
    return Figure(
        f"resident memory over idle, N={_SAVERS}, queue full",
        [(seen["most_bytes"] - seen["idle_bytes"]) / _MB],
        _MARK_MB,
        "at most",
        "MB",
    )


async def _measure(dsn: str) -> dict[str, int]:
    async with open_ours(dsn) as saver, await psycopg.AsyncConnection.connect(dsn) as blocker:
        await _save(saver, 1000, 1)
        gc.collect()
        idle = psutil.Process().memory_info().rss
        await blocker.execute(f"LOCK TABLE {saver.schema}.checkpoint_blobs IN ACCESS EXCLUSIVE MODE")
        full = _saves_made_ready() + Limits().queue_bytes // _VALUE_BYTES
        savers = [asyncio.create_task(_save(saver, _VALUE_BYTES, _SAVES_EACH)) for _ in range(_SAVERS)]
        await until(lambda: _saves_made_ready() >= full, what="the queue is full")
        await blocker.rollback()
        await asyncio.gather(*savers)
    return {"idle_bytes": idle, "most_bytes": _most_resident()}


async def _save(saver: Saver, size: int, times: int) -> None:
    config = thread_config(uuid4().hex)
    for step, checkpoint in enumerate(history_of(saver, times)):
        config = await saver.aput(config, _holding(checkpoint, os.urandom(size)), metadata_of(step), _new(checkpoint))


def _holding(checkpoint: Checkpoint, value: bytes) -> Checkpoint:
    return {**checkpoint, "channel_values": {"messages": [value]}}


def _new(checkpoint: Checkpoint) -> dict[str, str | int | float]:
    return {"messages": checkpoint["channel_versions"]["messages"]}


def _saves_made_ready() -> float:
    return REGISTRY.get_sample_value("checkpointer_checkpoint_bytes_count") or 0.0


def _most_resident() -> int:
    """The most that was resident in this process's life."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes


if __name__ == "__main__":
    assert Limits().queue_bytes < _SAVERS * _VALUE_BYTES
    print(json.dumps(asyncio.run(_measure(sys.argv[1]))))
