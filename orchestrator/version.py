"""The installed version, cheap to import."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["holdfast_version"]


def holdfast_version() -> str:
    """The installed version, or `unknown` where the packages are used from a checkout."""
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"
