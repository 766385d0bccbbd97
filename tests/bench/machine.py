"""The machine and the versions that figures were measured on; nothing that says whose machine it is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil
import psycopg

__all__ = ["describe", "is_busy", "server_settings"]

_LIBRARIES = (
    "langgraph",
    "langgraph-checkpoint",
    "langgraph-checkpoint-postgres",
    "langgraph-checkpoint-sqlite",
    "psycopg",
    "psycopg-pool",
    "orjson",
    "zstandard",
)
_PAGE = 8192
_FLUSHES = 100


def describe(directory: Path) -> dict[str, str]:
    """What a reader needs to compare; `directory` is on the disk that the savers write to."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "disk": f"{_flush_ms(directory):.2f} ms to write and flush 8 KB",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}, {platform.machine()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }


def server_settings(dsn: str) -> dict[str, str]:
    """The server's version and what its commits wait for. Raises `RuntimeError` where that is not the disk."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        settings = {}
        for name in ("server_version", "fsync", "synchronous_commit"):
            row = conn.execute("SELECT current_setting(%s)", (name,)).fetchone()
            settings[name] = str(row[0]) if row else ""
    if (settings["fsync"], settings["synchronous_commit"]) != ("on", "on"):
        raise RuntimeError(f"commits on this server do not wait for the disk: {settings}")
    return {"postgresql": settings["server_version"], "fsync": settings["fsync"]}


def is_busy() -> bool:
    """Whether so much else runs here that times, unlike ratios, would say more about that."""
    return os.getloadavg()[0] > (os.cpu_count() or 1) / 2


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _flush_ms(directory: Path) -> float:
    """The median time of what a commit waits for."""
    times = []
    with (directory / "flush").open("wb", buffering=0) as file:
        for _ in range(_FLUSHES):
            begun = perf_counter()
            file.write(bytes(_PAGE))
            os.fsync(file.fileno())
            times.append(1000 * (perf_counter() - begun))
    return median(times)
