"""LangGraph's own conformance suite over our saver, in each way it can store values."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import ALL_CAPABILITIES
from langgraph.checkpoint.serde.base import SerializerProtocol

from checkpointer import PooledPostgresSaver, open_postgres_saver
from checkpointer.postgres import chunks
from checkpointer.serde import AllowListSerializer, Cipher, CompressedSerializer

_SERDES: dict[str, tuple[SerializerProtocol, Cipher | None]] = {
    "plain": (AllowListSerializer(), None),
    "zstd": (CompressedSerializer(threshold=1), None),
    "zstd and encryption": (CompressedSerializer(threshold=1), Cipher([("one", bytes(range(32)))])),
}


@pytest.fixture(params=["whole", "shared"])
def storage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Literal["whole", "shared"]:
    """Both ways to store lists; shared even the short ones of the suite."""
    monkeypatch.setattr(chunks, "_FEWEST_ELEMENTS", 1)
    monkeypatch.setattr(chunks, "_SMALL_ELEMENT", 0)
    return "shared" if request.param == "shared" else "whole"


@pytest.mark.parametrize("mode", _SERDES)
async def test_all_eight_capabilities(mode: str, storage: Literal["whole", "shared"], postgres_dsn: str) -> None:
    """Every capability is detected and passes."""
    serde, cipher = _SERDES[mode]

    @checkpointer_test(name=f"PooledPostgresSaver {mode}")  # type: ignore[untyped-decorator, unused-ignore]
    async def saver() -> AsyncIterator[PooledPostgresSaver]:
        async with open_postgres_saver(postgres_dsn, storage=storage, serde=serde, cipher=cipher) as opened:
            yield opened

    report = await validate(saver)
    report.print_report()
    assert set(report.results) == {capability.value for capability in ALL_CAPABILITIES}
    failed = {name: result.failures for name, result in report.results.items() if not result.passed}
    assert failed == {}
