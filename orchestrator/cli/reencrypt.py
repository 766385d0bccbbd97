"""`holdfast reencrypt`: seal every stored value under the first key, or unseal every one."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console

from checkpointer import SettingsError
from checkpointer.factory import open_postgres
from checkpointer.postgres.reencrypt import Changed, reencrypt
from orchestrator.logs import setup_logging
from orchestrator.settings import OrchestratorSettings

__all__ = ["change_encryption"]


async def change_encryption(*, off: bool, as_json: bool) -> int:
    """Go through all stored values and say how many rows were changed. Safe to stop and to repeat."""
    settings = OrchestratorSettings(use_postgres_saver=True)
    setup_logging(settings.log_format, "WARNING")
    if settings.checkpoint_encryption_keys is None:
        raise SettingsError(
            "CHECKPOINT_ENCRYPTION_KEYS is not set: it takes id:base64,… with the key to encrypt under first, "
            "and every key that stored values still need behind it"
        )
    changed = Changed()
    async with open_postgres(settings) as saver:
        with Console(stderr=True).status("Starting") as status:
            async for changed in reencrypt(saver.pool, saver.schema, saver.serde, saver.cipher, seal=not off):
                status.update(_sentence(changed, "so far"))
    if as_json:
        print(json.dumps(asdict(changed)))
    else:
        print(_sentence(changed, "unsealed" if off else "sealed under the first key"))
    return 0


def _sentence(changed: Changed, what: str) -> str:
    return (
        f"{changed.values} values, {changed.writes} writes and {changed.chunks} chunks {what}, "
        f"primitives moved out of {changed.checkpoints} checkpoints"
    )
