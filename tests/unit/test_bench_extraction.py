"""The extraction is measured against labels, and is not worse than on record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.workflows.extraction import ExtractionPipeline
from tests.bench import extraction
from tests.bench.__main__ import main
from tests.bench.extraction_labels import MentionLabel, RelationLabel, labelled_documents, parsed
from tests.bench.extraction_score import ALL, Score, scored, worse

STATED = "verb: Ada Lovelace | met | Charles Babbage\n"
MARKED = "[[person:Ada Lovelace]] met [[person:Charles Babbage]]. [[person:Lovelace=Ada Lovelace]] was glad."


def test_the_extraction_is_not_worse_than_on_record() -> None:
    before = extraction.recorded()
    assert before.keys() == {"mentions", "entities", "entities, any type", "relations", "relations, by name"}
    assert worse(extraction.measured(), before) == []


def test_marks_become_labels() -> None:
    document = parsed("a", MARKED, STATED)
    assert document.text == "Ada Lovelace met Charles Babbage. Lovelace was glad."
    assert document.mentions[2] == MentionLabel(34, 42, "person", "Ada Lovelace")
    assert document.relations == (RelationLabel("verb", "Ada Lovelace", "met", "Charles Babbage"),)


@pytest.mark.parametrize(
    ("marked", "stated"),
    [("[[person:Ada", ""), (MARKED, "verb: Ada Lovelace | met"), (MARKED, "verb: She | met | Ada")],
)
def test_marks_that_are_none_are_refused(marked: str, stated: str) -> None:
    with pytest.raises(ValueError, match=r"^a "):
        parsed("a", marked, stated)


def test_what_is_right_and_what_is_not_is_counted() -> None:
    document = parsed("a", MARKED, STATED)
    scores = scored([document], ExtractionPipeline().run)
    assert scores["mentions"]["person"] == Score(labelled=3, found=3, right=3)
    assert scores["relations"]["verb"] == Score(1, 1, 1)
    blind = scored([document], lambda _: ExtractionPipeline().run("Nothing was seen in Paris."))
    assert blind["entities"]["person"].recall == 0
    assert blind["entities"][ALL].precision == 0
    record = {measure: {name: one.f1 for name, one in types.items()} for measure, types in scores.items()}
    assert [line.partition(":")[0] for line in worse(blind, record) if line.startswith("entities, p")] == [
        "entities, person"
    ]


def test_all_kinds_of_documents_are_labelled() -> None:
    documents = labelled_documents()
    assert len(documents) >= 25
    assert {name.rpartition(".")[2] for name in (document.name for document in documents)} == {
        "md", "txt", "eml", "html"
    }  # fmt: skip
    assert all(document.text[label.start : label.end].strip() for document in documents for label in document.mentions)


def test_the_bench_prints_and_keeps_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = tmp_path / "extraction.json"
    assert main(["extraction", "--strict", "--json", str(numbers)]) == 0
    assert json.loads(numbers.read_text())["scores"]["entities"]["all"]["labelled"] > 150
    assert numbers.with_suffix(".md").read_text().startswith("| figure |")
    assert "precision" in capsys.readouterr().out
