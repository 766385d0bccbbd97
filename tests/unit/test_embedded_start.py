"""A start of the embedded server that takes longer than the wheel gives it."""

from __future__ import annotations

import subprocess
from typing import Any, cast

import pytest

from checkpointer.postgres.embedded import _start_or_wait

SLOW = subprocess.TimeoutExpired("pg_ctl", 10)
FAILED = subprocess.CalledProcessError(1, "pg_ctl")


class Wheel:
    """Starts as often as it is told to fail, and then once more."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    def start(self) -> None:
        if self.failures:
            raise self.failures.pop(0)


@pytest.fixture(autouse=True)
def _without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checkpointer.postgres.embedded._POLL_S", 0.0)


def test_a_start_that_goes_on_is_waited_for() -> None:
    wheel = Wheel(SLOW, FAILED, IndexError(), FAILED)
    _start_or_wait(cast("Any", wheel))
    assert wheel.failures == []


def test_a_start_that_fails_is_not_tried_again() -> None:
    wheel = Wheel(FAILED, SLOW)
    with pytest.raises(subprocess.CalledProcessError):
        _start_or_wait(cast("Any", wheel))
    assert wheel.failures == [SLOW]
