"""What ends the demo before its time."""

from __future__ import annotations


class DemoError(Exception):
    """Something did not go as it should; the message says what was expected and what was seen."""


class StoppedError(Exception):
    """A signal asked the demo to stop."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"signal {signal_number}")
