"""The figures that are promised about storage, with their marks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tests.bench.figures import Figure, Results, percentile, ratios
from tests.bench.threads import State

__all__ = ["MEASURED_AT", "States", "short_thread_figures", "storage_figures"]

States = dict[str, list[State]]  # for each contender, its thread at each length

MEASURED_AT, _GROWN_TO = 400, 2000
_Bound = Literal["at least", "at most"]


def storage_figures(states: States) -> list[Figure]:
    """The figures about long threads, as far as these were measured."""
    found = {(name, state.turns): state for name, reached in states.items() for state in reached}
    stock, shared = found.get(("stock", MEASURED_AT)), found.get(("shared", MEASURED_AT))
    longest = found.get(("shared", _GROWN_TO))
    figures = []
    at = f"{MEASURED_AT} turns"
    if stock and shared:
        figures += [
            Figure(f"{at}, bytes on disk: stock ÷ shared", [stock.bytes / shared.bytes], 40, "at least", "×"),
            Figure(f"{at}, WAL: stock ÷ shared", [stock.wal / shared.wal], 40, "at least", "×"),
        ]
    if shared and longest:
        grown = longest.bytes / shared.bytes
        figures.append(Figure(f"bytes, {_GROWN_TO:,} turns ÷ {MEASURED_AT}: shared", [grown], 7, "at most", "×"))
    if stock and shared:
        figures += [
            _calls(f"{at}, save p50: stock ÷ shared", stock, shared, lambda state: state.saves, 3, "at least"),
            _calls(f"{at}, load p50: shared ÷ stock", shared, stock, lambda state: state.loads, 1.3, "at most"),
        ]
    return figures


def _calls(
    title: str,
    above: State,
    below: State,
    calls: Callable[[State], list[list[float]]],
    mark: float,
    bound: _Bound,
) -> Figure:
    """One contender's median call ÷ another's, round by round."""
    pairs = zip(calls(above), calls(below), strict=True)
    return Figure(title, [percentile(one, 50) / percentile(other, 50) for one, other in pairs], mark, bound, "×")


def short_thread_figures(results: Results) -> list[Figure]:
    """Throughput on the saver bench's work: shared ÷ whole."""
    return [
        Figure(
            f"{kind}, N=100: shared ÷ whole", ratios(results[f"{kind}:100"], "whole", "shared"), 0.95, "at least", "×"
        )
        for kind in ("ops", "graph")
    ]
