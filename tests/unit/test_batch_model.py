"""The counts of a batch, its policy, and what it may be asked to do."""

from __future__ import annotations

import pytest

from orchestrator.batches.model import (
    STAGES,
    BatchFailedError,
    BatchState,
    DocumentRow,
    DocumentState,
    Progress,
    Tally,
    progress_of,
    require_policy,
)
from orchestrator.batches.request import BatchInput, BatchInputError, retry_input
from orchestrator.batches.validation import InvalidExtractionError, as_extraction, check_extraction
from orchestrator.workflows import ExtractionPipeline

TALLIES = [
    Tally(DocumentState.FAILED, BatchState.PREPROCESSING, 1),
    Tally(DocumentState.FAILED, BatchState.EXTRACTING, 2),
    Tally(DocumentState.FAILED, BatchState.VALIDATING, 3),
    Tally(DocumentState.EXTRACTING, None, 4),
    Tally(DocumentState.EXTRACTED, None, 5),
    Tally(DocumentState.INGESTED, None, 6),
]


def test_progress_counts_what_is_past_each_state() -> None:
    assert progress_of(TALLIES) == {
        BatchState.PREPROCESSING: Progress(20, 21, 1),
        BatchState.EXTRACTING: Progress(14, 20, 2),
        BatchState.RESOLVING: Progress(9, 18, 0),
        BatchState.VALIDATING: Progress(6, 18, 3),
        BatchState.INGESTING: Progress(6, 15, 0),
    }
    assert progress_of([]) == dict.fromkeys(STAGES, Progress())


def test_the_policy_decides_whether_a_batch_goes_on() -> None:
    require_policy("some", TALLIES, [])
    require_policy("all", TALLIES[3:], [])
    with pytest.raises(BatchFailedError, match=r"6 of 21 documents failed \(1 in preprocessing, 2 in extracting, 3 in"):
        require_policy("all", TALLIES, ["a: b"])
    with pytest.raises(BatchFailedError, match="none is left: a: b; and 5 more"):
        require_policy("some", TALLIES[:3], ["a: b"])
    with pytest.raises(BatchFailedError, match="no documents"):
        require_policy("some", [], [])


def test_a_retry_asks_for_the_failed_documents_alone() -> None:
    given = {"paths": ["."], "title": "t", "policy": "all"}
    failed = [
        DocumentRow("a.md", "a.md", 0, {"given": "a.md"}),
        DocumentRow("l.jsonl:2", "l.jsonl:2", 1, {"given": "l.jsonl", "line": 2}),
        DocumentRow("l.jsonl:7", "l.jsonl:7", 2, {"given": "l.jsonl", "line": 7}),
    ]
    again = retry_input("id", given, failed)
    assert again == {
        "title": "t",
        "policy": "all",
        "retryOf": "id",
        "paths": ["a.md", "l.jsonl"],
        "lines": {"l.jsonl": [2, 7]},
    }
    assert BatchInput.parse(again).lines == {"l.jsonl": [2, 7]}


@pytest.mark.parametrize("given", [None, [], {"paths": ["a"], "lines": {"a": 1}}, {"paths": ["a"], "lines": []}])
def test_what_is_no_input_is_said_to_be_none(given: object) -> None:
    with pytest.raises(BatchInputError):
        BatchInput.parse(given)


def test_what_does_not_fit_its_document_is_found() -> None:
    text = "Acme Corporation acquired Globex in 2019."
    extraction = ExtractionPipeline().run(text)
    check_extraction(extraction, text)
    with pytest.raises(InvalidExtractionError, match="no place in the document"):
        check_extraction(extraction, text[:20])
    loose = {**extraction, "entities": extraction["entities"][1:]}
    with pytest.raises(InvalidExtractionError, match="which is not listed"):
        check_extraction(as_extraction(loose), text)
    with pytest.raises(InvalidExtractionError):
        as_extraction(None)
