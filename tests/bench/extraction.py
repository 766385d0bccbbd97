"""`scripts/bench extraction`: how right the offline extraction is about documents labelled by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.workflows.extraction import ExtractionPipeline
from tests.bench import options
from tests.bench.extraction_labels import DATA, labelled_documents
from tests.bench.extraction_score import ALL, Score, Scores, scored, worse
from tests.bench.figures import Figure, as_json
from tests.bench.tabled import TabledReport

__all__ = ["BASELINE", "main", "measured", "recorded"]

BASELINE = DATA / "baseline.json"


@dataclass(frozen=True)
class ExtractionReport(TabledReport):
    """Everything that one run found out."""

    note = "Labelled by hand, hard cases too: tests/data/extraction/README.md says how. Promised is what is on record."

    scores: Scores
    documents: int
    figures: Sequence[Figure]
    machine: Mapping[str, str]

    def _tables(self) -> Iterator[Sequence[Sequence[str]]]:
        for measure, types in self.scores.items():
            rows = [[name, str(one.labelled), str(one.found), *_shown(one)] for name, one in types.items()]
            yield [[measure, "labelled", "found", "precision", "recall", "F1"], *rows]

    def _as_json(self) -> dict[str, Any]:
        scores = {
            measure: {
                name: {
                    "labelled": one.labelled,
                    "found": one.found,
                    "right": one.right,
                    "precision": one.precision,
                    "recall": one.recall,
                    "f1": one.f1,
                }
                for name, one in types.items()
            }
            for measure, types in self.scores.items()
        }
        return {"documents": self.documents, "scores": scores, "figures": as_json(self.figures)}


def main(arguments: Sequence[str]) -> int:
    """Run the bench; 0, or with --strict 1 where a figure is lower than on record."""
    parser = options.common(
        "extraction", "Precision and recall of the extraction. It takes seconds; there are no rounds."
    )
    parser.add_argument("--record", action="store_true", help=f"put these figures on record, in {BASELINE.name}")
    chosen = parser.parse_args(arguments)
    console = options.open_console()
    report = _report()
    report.show(console)
    report.write(chosen.json)
    console.print("wrote", chosen.json, chosen.json.with_suffix(".md"))
    if chosen.record:
        _record(report.scores)
        console.print(f"recorded in {BASELINE.name}")
        return 0
    for line in (found := worse(report.scores, recorded())):
        console.print(f"worse than on record: {line}")
    return 1 if chosen.strict and found else 0


def measured() -> Scores:
    """The scores of the offline extraction."""
    pipeline = ExtractionPipeline()
    return scored(labelled_documents(), pipeline.run)


def recorded() -> dict[str, dict[str, float]]:
    """F1 by measure and type, as on record; empty where nothing is."""
    found: dict[str, dict[str, float]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return found


def _report() -> ExtractionReport:
    scores, before = measured(), recorded()
    # As many digits as the baseline has.
    figures = [
        Figure(f"{measure}: F1", [round(types[ALL].f1, 4)], before.get(measure, {}).get(ALL), "at least")
        for measure, types in scores.items()
    ]
    return ExtractionReport(scores, len(labelled_documents()), figures, {})


def _record(scores: Scores) -> None:
    """Only types with labels: of those without, there is nothing to find."""
    kept = {
        measure: {name: round(one.f1, 4) for name, one in types.items() if one.labelled}
        for measure, types in scores.items()
    }
    BASELINE.write_text(json.dumps(kept, indent=2) + "\n")


def _shown(score: Score) -> Iterator[str]:
    """Precision, recall and F1, as far as there is something to speak of."""
    yield f"{score.precision:.2f}" if score.found else "–"
    yield f"{score.recall:.2f}" if score.labelled else "–"
    yield f"{score.f1:.2f}" if score.labelled else "–"


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
