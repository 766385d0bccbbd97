"""`holdfast extract` and `holdfast batches …`: by themselves, and against a real server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.forking import run_holdfast
from tests.servers import ROOT, serving

TEXT = "Acme Corporation acquired Globex in 2019. John Smith founded Acme Corporation in Berlin."
NO_BATCH = "0199c0de-0000-7000-8000-000000000000"


def _holdfast(directory: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_holdfast(arguments, cwd=directory, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text(TEXT)
    (tmp_path / "docs" / "b.md").write_text("")
    return tmp_path


@pytest.mark.parametrize("name", ["out.jsonld", "out.graphml", "out.svg"])
def test_extract_in_memory(corpus: Path, name: str) -> None:
    done = _holdfast(corpus, "extract", "docs", "--out", name, "--json", USE_POSTGRES_SAVER="false")
    assert (done.returncode, done.stderr) == (0, "")
    batch = json.loads(done.stdout)
    assert (batch["status"], batch["knowledge"]["documents"]) == ("completed", 1)
    assert [row["name"] for row in batch["failedDocuments"]] == [str(corpus / "docs" / "b.md")]
    text = (corpus / name).read_text()
    assert "Acme Corporation" in text
    if name == "out.jsonld":
        json.loads(text)
    else:
        ET.fromstring(text)  # noqa: S314 - it is our own


def test_extract_says_how_far_it_is_and_fails_by_its_policy(corpus: Path) -> None:
    done = _holdfast(corpus, "extract", "docs", USE_POSTGRES_SAVER="false")
    assert done.returncode == 0, done.stderr
    assert "complete" in done.stdout.splitlines()
    assert "preprocessing  1 of 2, 1 failed" in done.stdout
    failed = _holdfast(corpus, "extract", "docs", "--policy", "all", USE_POSTGRES_SAVER="false")
    assert failed.returncode == 1
    assert "1 of 2 documents failed" in failed.stdout


@pytest.mark.parametrize(
    "arguments", [["--policy", "most"], ["--out", "out.txt"], ["--out", "no/such/out.svg"], ["--title", ""]]
)
def test_wrong_usage(corpus: Path, arguments: list[str]) -> None:
    done = _holdfast(corpus, "extract", "docs", *arguments, USE_POSTGRES_SAVER="false")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("holdfast: ")


async def test_batches_of_a_database_and_of_its_server(corpus: Path, postgres_dsn: str) -> None:
    database = {"USE_POSTGRES_SAVER": "true", "POSTGRES_CONNECTION_STRING": postgres_dsn}

    async def holdfast(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(_holdfast, corpus, *arguments, **database)

    for name, text in {
        "c.md": "Brightwater Logistics GmbH acquired Globex.",
        "d.md": "Brightwater Logistic GmbH.",
    }.items():
        (corpus / "docs" / name).write_text(text)
    done = await holdfast("extract", "docs", "--json", "--title", "reports")
    assert done.returncode == 0, done.stderr
    batch_id = json.loads(done.stdout)["batchId"]
    assert batch_id in (await holdfast("batches", "ls")).stdout
    assert "title reports" in (await holdfast("batches", "show", batch_id)).stdout
    assert (await holdfast("batches", "export", batch_id, "--out", "x.jsonld")).returncode == 0
    assert "Globex" in (corpus / "x.jsonld").read_text()
    again = await holdfast("batches", "retry", batch_id, "--json")
    assert (again.returncode, json.loads(again.stdout)["retryOf"]) == (1, batch_id)
    (corpus / "docs" / "b.md").write_text(TEXT)
    again = await holdfast("batches", "retry", batch_id, "--json")
    assert (again.returncode, json.loads(again.stdout)["knowledge"]["documents"]) == (0, 1)
    unknown = await holdfast("batches", "show", NO_BATCH)
    assert (unknown.returncode, unknown.stderr) == (1, f"holdfast: there is no batch '{NO_BATCH}'\n")

    [merge] = json.loads((await holdfast("batches", "merges", batch_id, "--json")).stdout)["merges"]
    assert {merge["left"], merge["right"]} == {"Brightwater Logistics GmbH", "Brightwater Logistic GmbH"}
    explained = (await holdfast("batches", "merges", merge["absorbedId"])).stdout
    assert f"entity {merge['survivorId']}: Brightwater" in explained
    assert all(word in explained for word in (merge["mergeId"], merge["reason"], "spelling", batch_id))
    for command in ("merges", "unmerge"):
        unknown = await holdfast("batches", command, NO_BATCH)
        assert (unknown.returncode, unknown.stderr.startswith("holdfast: there is no ")) == (1, True)

    async with serving(corpus, database) as server:
        await server.start()
        url = ("--url", f"http://127.0.0.1:{server.port}")
        assert batch_id in (await holdfast("batches", "ls", *url)).stdout
        shown = json.loads((await holdfast("batches", "show", batch_id, "--json", *url)).stdout)
        assert [row["error"]["message"].endswith("is empty") for row in shown["failedDocuments"]] == [True]
        assert (await holdfast("batches", "export", batch_id, "--out", "y.jsonld", *url)).returncode == 0
        assert (corpus / "y.jsonld").read_text() == (corpus / "x.jsonld").read_text()
        refused = await holdfast("batches", "export", NO_BATCH, "--out", "x.jsonld", *url)
        assert (refused.returncode, refused.stderr) == (1, f"holdfast: there is no batch '{NO_BATCH}'\n")
        # The file that was there stays.
        assert "Globex" in (corpus / "x.jsonld").read_text()
        assert merge["mergeId"] in (await holdfast("batches", "merges", batch_id, *url)).stdout
        parted = await holdfast("batches", "unmerge", merge["mergeId"], *url)
        assert parted.stdout == f"{merge['left']!r} and {merge['right']!r} are two entities, for good\n"
        [again] = json.loads((await holdfast("batches", "unmerge", merge["mergeId"], "--json")).stdout)["merges"]
        assert again["undoneWhy"] == "asked"
        entity = json.loads((await holdfast("batches", "merges", merge["absorbedId"], "--json", *url)).stdout)
        assert (entity["entityId"], entity["merges"]) == (merge["absorbedId"], [again])
        assert "for good" in (await holdfast("batches", "merges", batch_id, *url)).stdout
        unknown = await holdfast("batches", "merges", NO_BATCH, *url)
        assert unknown.stderr == f"holdfast: there is no batch and no entity '{NO_BATCH}'\n"
        started = (await holdfast("batches", "retry", batch_id, *url)).stdout.strip()
        watched = await holdfast("batches", "watch", started, *url)
        assert watched.returncode == 0, watched.stderr
        assert "complete" in watched.stdout.splitlines()
