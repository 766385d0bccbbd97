"""One page of all benches: `report.html`, with every chart and table in it, which needs no other file."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

__all__ = ["Entry", "write_page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933; }
h1 { margin-bottom: 0; } h2 { margin-top: 3rem; border-bottom: 1px solid #d5dbe1; }
img { max-width: 100%; } code { background: #f1f4f6; padding: 0 .25em; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 14px; }
th, td { border-bottom: 1px solid #e1e6ea; padding: .25rem .75rem .25rem 0; text-align: left; }
td { font-variant-numeric: tabular-nums; } .missed { color: #c0392b; font-weight: 600; } .met { color: #2a7f62; }
.small { color: #52606d; font-size: 13px; }
"""
_READ = """Ratios are taken within a round, in which all sides met the same machine; a figure is the median over the
rounds. Times belong to the machine below, and most of all to how long its disk takes to flush."""


@dataclass(frozen=True)
class Entry:
    """A bench on the page: what it is about, and where it left its numbers; or why it has none."""

    name: str
    about: str
    numbers: Path
    problem: str = ""


def write_page(path: Path, entries: Sequence[Entry]) -> None:
    """Write the page of those that left something, and of what came in between for the others."""
    found = {entry.name: _numbers(entry) for entry in entries}
    lines = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>Holdfast, measured</title><style>{_STYLE}</style></head>',
        f'<body><h1>Holdfast, measured</h1><p class="small">{_READ}</p>',
        *_machine(found),
        *_summary(found),
        *(line for entry in entries for line in _section(entry, found[entry.name])),
        "</body></html>",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _numbers(entry: Entry) -> Mapping[str, Any]:
    if entry.problem or not entry.numbers.exists():
        return {}
    found: dict[str, Any] = json.loads(entry.numbers.read_text())
    return found


def _machine(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What all of them were measured on; flushes and load are each one's own, and those of the first are shown."""
    machine: Mapping[str, str] = next((numbers["machine"] for numbers in found.values() if numbers.get("machine")), {})
    yield f'<p class="small">{escape(", ".join(f"{name} {value}" for name, value in machine.items()))}</p>'


def _summary(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Every figure to which a mark is promised."""
    heads = "".join(f"<th>{head}</th>" for head in ("bench", "figure", "median", "promised", ""))
    yield f"<h2>What is promised</h2><table><tr>{heads}</tr>"
    for name, numbers in found.items():
        for figure in numbers.get("figures", ()):
            bound = "at_least" if "at_least" in figure else "at_most"
            if bound in figure:
                verdict = "met" if figure["met"] else "missed"
                sign = "≥" if bound == "at_least" else "≤"
                cells = (name, figure["title"], _shown(figure["median"], figure["unit"]), f"{sign} {figure[bound]:g}")
                shown = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
                yield f'<tr>{shown}<td class="{verdict}">{verdict}</td></tr>'
    yield "</table>"


def _shown(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def _section(entry: Entry, numbers: Mapping[str, Any]) -> Iterator[str]:
    quick = " --quick" if numbers.get("quick") else ""
    machine = numbers.get("machine", {})
    beside = "".join(f", {name} {machine[name]}" for name in ("load before", "disk") if name in machine)
    yield f'<h2 id="{entry.name}">{escape(entry.about)}</h2>'
    yield f'<p class="small"><code>./scripts/bench {entry.name}{quick}</code>{escape(beside)}</p>'
    if not numbers:
        yield f'<p class="missed">{escape(entry.problem or "It has not been run.")}</p>'
        return
    chart = entry.numbers.with_suffix(".png")
    if chart.exists():
        picture = b64encode(chart.read_bytes()).decode()
        yield f'<img alt="{escape(entry.about)}" src="data:image/png;base64,{picture}">'
    tables = entry.numbers.with_suffix(".md")
    if tables.exists():
        yield MarkdownIt("commonmark").enable("table").render(tables.read_text(encoding="utf-8"))
