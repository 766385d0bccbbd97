"""The extraction: its stages, its pipeline and its workflow."""

from __future__ import annotations

import asyncio
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from orchestrator.workflows.extraction import (
    STAGES,
    BinaryDocumentError,
    DocumentError,
    DocumentSourceError,
    EmptyDocumentError,
    ExtractionPipeline,
    ThrottleError,
    UnreadableDocumentError,
    build_extraction,
)
from orchestrator.workflows.extraction.assemble import MAX_CO_OCCURRENCES, MAX_ENTITIES, MAX_SPANS
from orchestrator.workflows.extraction.document import MAX_DOCUMENT_BYTES, load_document
from orchestrator.workflows.extraction.markup import mask
from orchestrator.workflows.extraction.records import Extraction

DOCUMENT = """\
---
author: nobody
---
# The [Holdfast](https://example.org/holdfast) Handbook

**Holdfast** is a Python library. It was started in Basel on 3 May 2021 by Ada Lovelace and Dr. Maria Keller.
Holdfast uses PostgreSQL, Redis and `PooledPostgresSaver`, and depends on LangGraph. Lovelace left in 2022.
A write-ahead log (WAL) keeps it honest; WALs are short.

## What it needs

`open_saver()` requires:
- `USE_POSTGRES_SAVER=true`
- `pool.py`, see <https://example.org/docs>.

| file | meaning |
|---|---|
| `src/app.py` | Keller wrote it; 90% of it takes 5 ms |

```python
Nothing = InHere("is read", by=TheRules)
```

    $ pip install Nothing --or=Here

Microsoft acquired GitHub in 2018. Postgres does not use Oracle.
"""

# Pieces that provoke the rules more often than arbitrary text does.
MARKDOWN = st.lists(
    st.sampled_from(
        [
            "# ", "## ", "- ", "> ", "    ", "```\n", "`", "`code`", "**", "_", "*", "[", "](", ")", "(", "|", "---\n",
            "\n", "\n\n", " ", ". ", "? ", ", ", ": ", "Ada Lovelace", "PostgreSQL", "Holdfast", "IBM", "WAL", "uses",
            "is a", "was founded by", "and", "of", "the", "write-ahead log (WAL)", "http://a.b/c", "3 May 2021", "5 ms",
            "Dr.", "’s", "\r\n", "\t", "é", "日本", "\x00", "<b>", "~~", "1. ", "\ue000",
        ]
    )
).map("".join)  # fmt: skip
TEXTS = st.one_of(st.text(min_size=1, max_size=300), MARKDOWN).filter(lambda text: text.strip() != "")


def run(text: str) -> Extraction:
    return ExtractionPipeline().run(text)


def types_of(text: str) -> dict[str, str]:
    return {entity["name"]: entity["type"] for entity in run(text)["entities"]}


def stated(text: str) -> set[tuple[str, str, str]]:
    return {
        (relation["subject"], relation["predicate"], relation["object"])
        for relation in run(text)["relations"]
        if relation["kind"] != "co_occurrence"
    }


def entity(result: Extraction, name: str) -> Any:
    return next(entity for entity in result["entities"] if entity["name"] == name)


async def run_workflow(payload: dict[str, Any], model: Any = None) -> Any:
    return await build_extraction(model).compile().ainvoke(payload)  # type: ignore[call-overload]


def without_trace(output: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in output.items() if key != "trace"}


# Stage 1


def test_blocks_are_told_apart() -> None:
    chunks = ExtractionPipeline().chunk(DOCUMENT)

    assert [chunk["kind"] for chunk in chunks] == [
        "code", "heading", "paragraph", "heading", "paragraph", "list_item", "list_item", "table_row", "table_row",
        "code", "code", "paragraph",
    ]  # fmt: skip
    assert chunks[2]["section"] == "The Holdfast Handbook"
    assert chunks[-1]["section"] == "The Holdfast Handbook > What it needs"
    assert chunks[0]["sentences"] == chunks[-2]["sentences"] == []


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Watson met Mr. Holmes. They left.", ["Dr. Watson met Mr. Holmes.", "They left."]),
        ("J. R. R. Tolkien wrote, e.g. this.", ["J. R. R. Tolkien wrote, e.g. this."]),
        ("Acme Inc. The rest is gone.", ["Acme Inc.", "The rest is gone."]),
        ("Version 3.2 is out at 5 p.m. today.", ["Version 3.2 is out at 5 p.m. today."]),
        ("See `a. B` and https://a.b/c. Next", ["See `a. B` and https://a.b/c.", "Next"]),
        ("A sentence\nover two lines. Another", ["A sentence\nover two lines.", "Another"]),
    ],
)
def test_sentences_end_where_they_end(text: str, sentences: list[str]) -> None:
    [chunk] = ExtractionPipeline().chunk(text)
    assert [text[start:end] for start, end in chunk["sentences"]] == sentences


@given(st.text())
def test_masking_moves_nothing(text: str) -> None:
    assert len(mask(text)) == len(text)


# Stage 2


@pytest.mark.parametrize(
    ("text", "name", "type_"),
    [
        ("We met Ada Lovelace there.", "Ada Lovelace", "person"),
        ("It was Prof. Keller.", "Keller", "person"),
        ("The team moved to Zurich.", "Zurich", "place"),
        ("They crossed the Sava River.", "Sava River", "place"),
        ("He joined the University of Basel.", "University of Basel", "organization"),
        ("They sold Widget Industries.", "Widget Industries", "organization"),
        ("It runs on PostgreSQL.", "PostgreSQL", "technology"),
        ("The iPhone rang.", "iPhone", "product"),
        ("The `open_saver` call", "open_saver", "code"),
        ("Set USE_POSTGRES_SAVER first.", "USE_POSTGRES_SAVER", "code"),
        ("It is in `src/app.py` now.", "src/app.py", "file"),
        ("Look at [this](https://example.org/x) page.", "https://example.org/x", "url"),
        ("Write to info@example.org.", "info@example.org", "email"),
        ("It began on December 11, 2025.", "December 11, 2025", "date"),
        ("It began in 1999.", "1999", "date"),
        ("It takes 30 ms.", "30 ms", "quantity"),
        ("It cost $7.5 billion.", "$7.5 billion", "quantity"),
        ("The VPC is closed.", "VPC", "acronym"),
        ("Redis is an in-memory key-value store.", "in-memory key-value store", "concept"),
    ],
)
def test_types_of_mentions(text: str, name: str, type_: str) -> None:
    assert types_of(text).get(name) == type_


@pytest.mark.parametrize(
    "text",
    [
        "Running the tests takes long. However, nobody minds. Please wait.",
        "# Executive Summary\n\n## Root Causes\n\n- Primary: Conditional Selection\n- **Status**: Done",
        "NOTE: THIS IS NOT A DRILL. TODO.",
        "```\nClass Foo uses PostgreSQL\n```",
        '`true` and `42` and `"x"`',
    ],
)
def test_capitals_alone_make_no_names(text: str) -> None:
    assert types_of(text) == {}


def test_a_sentence_may_begin_with_a_name_that_the_document_bears_out() -> None:
    assert "Quillon" not in types_of("Quillon.")
    assert types_of("Quillon stopped. We asked Quillon again.") == {"Quillon": "name"}
    assert types_of("Quillon Systems stopped.") == {"Quillon Systems": "organization"}


# Stage 3


def test_acronyms_join_their_expansions_and_plurals() -> None:
    found = entity(run("A write-ahead log (WAL) is kept. The WAL grows; WALs are cut."), "write-ahead log")
    assert (found["type"], found["count"], found["aliases"]) == ("concept", 4, ["WAL", "WALs"])


def test_an_expansion_may_follow_its_acronym() -> None:
    found = entity(run("The WHO (World Health Organization) met. The WHO voted."), "World Health Organization")
    assert found["aliases"] == ["WHO"]


def test_a_surname_stands_for_its_only_bearer() -> None:
    result = run("We met Ada Lovelace. Lovelace left, and so did Lovelace's dog.")
    assert entity(result, "Ada Lovelace")["count"] == 3
    assert len(run("We met Ada Lovelace and Anna Lovelace. It was Lovelace.")["entities"]) == 3


def test_spellings_of_one_thing_are_one_entity() -> None:
    result = run("It uses PostgreSQL. Then Postgres stopped. We call `open_saver()` or `open_saver(settings)`.")
    assert entity(result, "PostgreSQL")["count"] == 2
    assert entity(result, "open_saver()")["count"] == 2


# Stage 4


@pytest.mark.parametrize(
    ("text", "relation"),
    [
        ("Holdfast uses PostgreSQL.", ("Holdfast", "uses", "PostgreSQL")),
        ("Holdfast also depends on the LangGraph library.", ("Holdfast", "depends on", "LangGraph")),
        ("PostgreSQL is used by Holdfast.", ("Holdfast", "uses", "PostgreSQL")),
        ("GitHub, founded by Chris Wanstrath, grew.", ("Chris Wanstrath", "founded", "GitHub")),
        ("Microsoft acquired GitHub in 2018.", ("Microsoft", "acquired", "GitHub")),
        ("Microsoft acquired GitHub in 2018.", ("Microsoft", "acquired in", "2018")),
        ("Satya Nadella, the CEO of Microsoft, spoke.", ("Satya Nadella", "ceo of", "Microsoft")),
        ("Paris is the capital of France.", ("Paris", "is capital of", "France")),
        ("Redis is a key-value store.", ("Redis", "is a", "key-value store")),
        ("PostgreSQL does not use Oracle.", ("PostgreSQL", "does not use", "Oracle")),
        ("Holdfast stores checkpoints in PostgreSQL.", ("Holdfast", "stores checkpoints in", "PostgreSQL")),
        ("Holdfast uses Redis and wraps LangGraph.", ("Holdfast", "wraps", "LangGraph")),
        ("Redis and Kafka use Docker.", ("Kafka", "uses", "Docker")),
        ("It needs the Redis of Heroku.", ("Redis", "of", "Heroku")),
        ("`Layer.live` provides:\n\n- `Pool`\n- `Saver`", ("Layer.live", "provides", "Saver")),
    ],
)
def test_relations_are_read(text: str, relation: tuple[str, str, str]) -> None:
    assert relation in stated(text)


def test_what_hangs_on_a_preposition_is_no_subject() -> None:
    assert stated("The author of Redis uses Docker.") == set()


def test_entities_of_one_sentence_co_occur_unless_they_are_related() -> None:
    relations = run("Redis, then, unlike Kafka, stopped. Redis or rather Kafka went on.")["relations"]
    assert [(r["predicate"], r["kind"], r["count"]) for r in relations] == [("appears with", "co_occurrence", 2)]
    assert [r["kind"] for r in run("Redis, unlike Kafka, stopped. Redis uses Kafka.")["relations"]] == ["verb"]


def test_evidence_shows_the_relation() -> None:
    text = "Nothing here. **Holdfast** uses `Redis` daily."
    [relation] = run(text)["relations"]
    [evidence] = relation["evidence"]
    assert text[evidence["start"] : evidence["end"]] == "Holdfast** uses `Redis"
    assert evidence["sentence"] == "**Holdfast** uses `Redis` daily."


# Stage 5


def test_the_result_is_bounded_and_says_what_was_left_out() -> None:
    names = [f"Zed{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676)}x" for i in range(MAX_ENTITIES + 40)]
    text = "We saw " + ". We saw ".join(f"{a} near {b}" for a, b in pairwise(names))
    result = run(text + ". We saw Zedaaax." * (MAX_SPANS + 10))

    counts = result["counts"]
    assert len(result["entities"]) == MAX_ENTITIES
    assert counts["entities"] == MAX_ENTITIES + 40
    assert counts["entities_omitted"] == 40
    assert len(result["relations"]) == MAX_CO_OCCURRENCES
    assert counts["relations"] - counts["relations_omitted"] == MAX_CO_OCCURRENCES
    assert result["entities"][0]["count"] > len(result["entities"][0]["spans"]) == MAX_SPANS


def test_a_whole_document() -> None:
    result = run(DOCUMENT)

    assert result["title"] == "The Holdfast Handbook"
    assert {"Holdfast", "Ada Lovelace", "PostgreSQL", "LangGraph", "Basel", "write-ahead log", "src/app.py"} <= {
        entity["name"] for entity in result["entities"]
    }
    assert "Nothing" not in {entity["name"] for entity in result["entities"]}
    assert {
        ("Holdfast", "is a", "Python library"),
        ("Holdfast", "uses", "PooledPostgresSaver"),
        ("Holdfast", "depends on", "LangGraph"),
        ("open_saver()", "requires", "USE_POSTGRES_SAVER"),
        ("PostgreSQL", "does not use", "Oracle"),
    } <= stated(DOCUMENT)
    assert sum(result["counts"]["entity_types"].values()) == result["counts"]["entities"]
    assert sum(result["counts"]["relation_kinds"].values()) == result["counts"]["relations"]


# What holds for every text


@given(TEXTS)
@settings(max_examples=200)
def test_spans_hold_what_they_claim(text: str) -> None:
    pipeline = ExtractionPipeline()
    chunks = pipeline.chunk(text)
    mentions = pipeline.mentions(text, chunks)
    for before, after in pairwise(chunks):
        assert before["end"] <= after["start"]
    for chunk in chunks:
        assert all(chunk["start"] <= start < end <= chunk["end"] for start, end in chunk["sentences"])
    for mention in mentions:
        start, end = chunks[mention["chunk"]]["sentences"][mention["sentence"]]
        assert start <= mention["start"] < mention["end"] <= end
        assert text[mention["start"] : mention["end"]] == mention["text"]
        assert mention["name"]
    plain = [mention for mention in mentions if mention["type"] != "concept"]
    assert all(a["end"] <= b["start"] for a, b in pairwise(plain))
    grouped = sorted(position for group in pipeline.entities(mentions) for position in group["mentions"])
    assert grouped == list(range(len(mentions)))


@given(TEXTS)
@settings(max_examples=200)
def test_results_are_consistent_plain_and_the_same_every_time(text: str) -> None:
    result = run(text)
    assert result == run(text)
    assert json.loads(json.dumps(result)) == result
    ids = {entity["id"]: entity["name"] for entity in result["entities"]}
    assert len(ids) == len(result["entities"])
    for relation in result["relations"]:
        assert ids[relation["subject_id"]] == relation["subject"]
        assert ids[relation["object_id"]] == relation["object"]
        assert relation["subject_id"] != relation["object_id"]
        assert relation["count"] >= len(relation["evidence"]) > 0
        assert all(text[e["start"] : e["end"]].strip() for e in relation["evidence"])


@given(TEXTS)
@settings(max_examples=50, deadline=None)
async def test_the_workflow_gives_what_the_pipeline_gives(text: str) -> None:
    assert without_trace(await run_workflow({"text": text})) == run(text)


@pytest.mark.parametrize(
    "piece",
    ["# ", "- ", "`", "*", "_", "[", "](", "(", "<", "|", ". ", "...", "a-", "A ", "Ab ", "9,", "IBM (", "> "],
)
def test_hostile_repetition_costs_linear_time(piece: str) -> None:
    # Quadratic rules would take minutes, and meet the suite's time limit.
    run("x" + piece * (200_000 // len(piece)))


# The document


@pytest.mark.parametrize(
    ("payload", "error", "message"),
    [
        ({}, DocumentSourceError, "neither 'text' nor 'path'"),
        ({"text": "a", "path": "b"}, DocumentSourceError, "both 'text' and 'path'"),
        ({"text": 7}, DocumentSourceError, "'text' takes a string, not int"),
        ({"text": "a", "title": []}, DocumentSourceError, "'title' takes a string, not list"),
        ({"text": " \n\t "}, EmptyDocumentError, "empty"),
        ({"text": "a\ud800"}, BinaryDocumentError, "surrogate pair at character 1"),
        ({"path": "no/such/file.md"}, UnreadableDocumentError, "No such file"),
        ({"path": "."}, UnreadableDocumentError, "is not a file"),
        ({"path": "a\x00b"}, UnreadableDocumentError, "cannot read"),
    ],
)
def test_wrong_documents_are_refused(payload: dict[str, Any], error: type[DocumentError], message: str) -> None:
    with pytest.raises(error, match=message):
        load_document(payload)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", EmptyDocumentError, "empty"),
        (b"PNG\x00\x01", BinaryDocumentError, "NUL bytes"),
        (b"caf\xe9", BinaryDocumentError, "bad byte at offset 3"),
        (b"a" * (MAX_DOCUMENT_BYTES + 1), UnreadableDocumentError, "larger than"),
    ],
)
def test_wrong_files_are_refused(content: bytes, error: type[DocumentError], message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.md"
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        load_document({"path": str(path)})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(UnreadableDocumentError, match="is not a file"):
        load_document({"path": str(path)})


@pytest.mark.parametrize(
    ("payload", "title"),
    [
        ({"text": "# The *One* `title` #\n\ntext", "title": " Given\n title "}, "Given title"),
        ({"text": "Intro\n\n# The *One* `title` #\n\ntext"}, "The One title"),
        ({"text": "```\n# comment\n```\n"}, "```"),
        ({"text": "\n\nFirst line\nSecond"}, "First line"),
    ],
)
def test_titles(payload: dict[str, Any], title: str) -> None:
    assert load_document(payload)["title"] == title


def test_a_path_may_be_confined_to_a_directory(tmp_path: Path) -> None:
    inside, secret = tmp_path / "inside", tmp_path / "secret.md"
    inside.mkdir()
    (inside / "a.md").write_text("# Told")
    secret.write_text("# Untold")
    (inside / "link.md").symlink_to(secret)
    assert load_document({"path": "a.md"}, inside)["title"] == "Told"
    for name in ("../secret.md", str(secret), "link.md", "~/.ssh/id_rsa"):
        with pytest.raises(DocumentSourceError, match="not below DOCUMENTS_DIR"):
            load_document({"path": name}, inside)
        with pytest.raises(DocumentError):
            load_document({"path": name}, Path(os.devnull))


def test_a_file_is_titled_by_its_name_and_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes("\ufeffFirst\r\nline".encode())
    assert load_document({"path": str(path)}) == {"title": "notes", "text": "First\r\nline"}


# The workflow


async def test_a_file_gives_what_its_text_gives(tmp_path: Path) -> None:
    path = tmp_path / "handbook.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    output = await run_workflow({"path": str(path)})

    assert without_trace(output) == run(DOCUMENT)
    assert [entry["stage"] for entry in output["trace"]] == list(STAGES)
    assert {entry["pid"] for entry in output["trace"]} == {os.getpid()}
    assert all(entry["startedAt"] <= entry["finishedAt"] for entry in output["trace"])


async def test_a_long_document_gives_the_same_in_a_thread() -> None:
    text = DOCUMENT * 30
    assert without_trace(await run_workflow({"text": text, "title": "Long"})) == ExtractionPipeline().run(text, "Long")


def test_the_schemas_are_narrow() -> None:
    graph = build_extraction().compile()
    inputs = set(graph.get_input_jsonschema()["properties"])
    outputs = set(graph.get_output_jsonschema()["properties"])
    assert inputs == {"text", "path", "title", "throttleSeconds", "whole"}
    assert outputs == {"title", "entities", "relations", "counts", "trace"}


async def test_a_document_that_takes_no_time_is_read_in_one_node() -> None:
    asked = {"text": DOCUMENT, "title": "T", "whole": True}
    output = await run_workflow(asked)
    assert [entry["stage"] for entry in output["trace"]] == ["whole"]
    assert without_trace(output) == ExtractionPipeline().run(DOCUMENT, "T")
    short = {"text": "Quillon sits in the blue box.", "whole": True}
    for payload, model in ((asked | {"throttleSeconds": 0.001}, None), (short, fake_model())):
        stages = [entry["stage"] for entry in (await run_workflow(payload, model))["trace"]]
        assert stages == list(STAGES)


@pytest.mark.parametrize("value", [-1, 60.5, float("nan"), float("inf"), "2", True])
async def test_a_wrong_throttle_is_refused(value: object) -> None:
    with pytest.raises(ThrottleError, match="'throttleSeconds' takes"):
        await run_workflow({"text": "Text.", "throttleSeconds": value})


async def test_wrong_input_stops_the_workflow_with_its_own_error() -> None:
    with pytest.raises(DocumentSourceError):
        await run_workflow({"title": "Neither"})


async def test_every_stage_pauses_when_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(delay: float, *args: object) -> None:
        pauses.append(delay)

    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.workflows.extraction.graph.pause", sleep)
        await run_workflow({"text": "Text.", "throttleSeconds": 2})
    assert pauses == [2.0] * len(STAGES)


async def test_a_resumed_run_executes_no_stage_twice_and_needs_no_file_again(tmp_path: Path) -> None:
    path = tmp_path / "handbook.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "t"}, "metadata": {"run_id": "r1"}}
    payload: Any = {"path": str(path)}

    await build_extraction().compile(checkpointer=saver, interrupt_after=["mentions"]).ainvoke(payload, config)
    path.unlink()
    output: Any = await build_extraction().compile(checkpointer=saver).ainvoke(payload, config)

    assert [entry["stage"] for entry in output["trace"]] == list(STAGES)
    assert without_trace(output) == run(DOCUMENT)


async def test_the_next_document_of_a_thread_is_not_mixed_with_the_last(tmp_path: Path) -> None:
    path = tmp_path / "second.md"
    path.write_text("Redis wraps Kafka.", encoding="utf-8")
    graph = build_extraction().compile(checkpointer=InMemorySaver())
    for metadata in ({}, {"run_id": "r1"}, {"run_id": "r2"}):
        config: Any = {"configurable": {"thread_id": "t"}, "metadata": metadata}
        first: Any = await graph.ainvoke({"text": "PostgreSQL.", "title": "First"}, config)
        config = {"configurable": {"thread_id": "t"}, "metadata": {"run_id": metadata.get("run_id", "") + "x"}}
        second: Any = await graph.ainvoke({"path": str(path)}, config)
        assert first["title"] == "First"
        assert without_trace(second) == {**run("Redis wraps Kafka."), "title": "second"}
        assert [entry["stage"] for entry in second["trace"]] == list(STAGES)


async def test_the_state_is_plain_data() -> None:
    graph = build_extraction().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke({"text": DOCUMENT}, config)
    values = (await graph.aget_state(config)).values
    assert json.loads(json.dumps(values)) == values


# With a chat model


class StructuredFake(FakeMessagesListChatModel):
    """Answers each question with the next of its tool calls."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self


def answer(tool: str, **arguments: Any) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": tool, "args": arguments, "id": "1"}])


def fake_model() -> StructuredFake:
    return StructuredFake(
        responses=[
            answer(
                "NamedThings",
                names=[
                    {"name": "Quillon", "type": "Product"},
                    {"name": "the blue box", "type": "concept"},
                    {"name": "Invented", "type": "person"},
                ],
            ),
            answer(
                "StatedRelations",
                relations=[
                    {"subject": "quillon", "predicate": "lives in", "object": "The blue box"},
                    {"subject": "Quillon", "predicate": "likes", "object": "Invented"},
                ],
            ),
        ]
    )


def test_a_model_is_believed_as_far_as_the_text_bears_it_out() -> None:
    result = ExtractionPipeline(fake_model()).run("They say that quillons or Quillon sit in the blue box.")

    assert [(entity["name"], entity["type"]) for entity in result["entities"]] == [
        ("Quillon", "product"),
        ("the blue box", "concept"),
    ]
    assert [(r["subject"], r["predicate"], r["object"]) for r in result["relations"]] == [
        ("Quillon", "lives in", "the blue box")
    ]


async def test_a_model_gives_the_same_through_the_workflow() -> None:
    text = "Quillon sits in the blue box."
    output = await asyncio.wait_for(run_workflow({"text": text}, fake_model()), 30)
    assert without_trace(output) == ExtractionPipeline(fake_model()).run(text)
