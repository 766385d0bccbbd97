"""`holdfast --env-file FILE`: the settings of a service, for a command that is run beside it."""

from __future__ import annotations

import os
from pathlib import Path

from dotenv import dotenv_values

from checkpointer.errors import SettingsError

__all__ = ["read_environment"]


def read_environment(file: Path) -> None:
    """Put what the file sets into the environment, where it is not set already. Raises `SettingsError`."""
    try:
        with file.open(encoding="utf-8") as lines:
            values = dotenv_values(stream=lines)
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"--env-file {file} can't be read: {getattr(exc, 'strerror', None) or exc}") from exc
    for name, value in values.items():
        if value is not None:
            # Settings are known by their names in capitals; the file may have them otherwise, as `.env` may.
            os.environ.setdefault(name.upper(), value)
