"""A server is killed in every state of a batch: what comes out is what an undisturbed batch finds."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from orchestrator.batches.model import STAGES, BatchState
from tests.chaos.fleet import Fleet, open_fleet
from tests.servers import Server
from tests.waiting import until

pytestmark = pytest.mark.chaos
NODES = dict(zip(STAGES, ("preprocess", "extract", "resolve", "validate", "ingest"), strict=True))
NAMES = ("Acme Corporation", "Globex", "Initech", "Hooli", "Umbrella Corporation", "Soylent Corporation")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Twelve documents, of which each shares its names with two others."""
    root = tmp_path / "corpus"
    root.mkdir()
    for number in range(12):
        one, other = NAMES[number % 6], NAMES[(number + 1) % 6]
        text = f"# Report {number}\n\n{one} acquired {other} in 2019. John Smith founded {one} in Berlin."
        (root / f"report{number:02}.md").write_text(text)
    return root


async def _start(fleet: Fleet, server: Server, **more: Any) -> str:
    return await fleet.invoke(server, "batch", {"paths": ["."], **more})


def _found(fleet: Fleet, batch_id: str) -> dict[str, Any]:
    """What a batch found, as rows."""
    mentions = fleet.rows(
        "SELECT document_key, span_start, span_end, root_id FROM knowledge_mention JOIN knowledge_entity"
        " USING (entity_id) WHERE batch_id = %s ORDER BY 1, 2, 3, 4",
        [batch_id],
    )
    evidence = fleet.rows(
        "SELECT document_key, span_start, span_end, relation_id, sentence FROM knowledge_evidence"
        " WHERE batch_id = %s ORDER BY 1, 2, 3, 4",
        [batch_id],
    )
    counts = {name: fleet.row(batch_id)["output"][str(name)] for name in STAGES}
    return {"mentions": mentions, "evidence": evidence, "counts": counts}


def _nothing_finished_ran_again(fleet: Fleet, batch_id: str) -> None:
    """Only what was under way when a process was killed was run twice: a node for every process that was lost.

    `extract` is also interrupted by its wait. What a process had not written when it was killed is missing.
    """
    losses = fleet.row(batch_id)["losses"]
    rows = fleet.rows("SELECT * FROM workflow_activity WHERE run_id = %s", [batch_id])
    begun = Counter(row["activity"] for row in rows if row["status"] != "interrupted")
    completed = Counter(row["activity"] for row in rows if row["status"] == "completed")
    order = list(NODES.values())
    assert losses or set(begun) == set(order), rows
    assert max(completed.values()) == 1, rows
    assert sum(times > 1 for times in begun.values()) <= losses, rows
    # No attempt goes back behind what another has done. Times are only about right where the machine is busy.
    ran = sorted((row["attempt"], order.index(row["activity"])) for row in rows)
    assert [node for _, node in ran] == sorted(node for _, node in ran), rows


@pytest.mark.parametrize("state", STAGES)
async def test_a_kill_in_a_state(postgres_dsn: str, tmp_path: Path, corpus: Path, state: BatchState) -> None:
    async with open_fleet(tmp_path, postgres_dsn, DOCUMENTS_DIR=str(corpus)) as fleet:
        victim, other = fleet.servers
        whole = await _start(fleet, other)
        await fleet.completed(whole)
        fleet.arm(victim, f"batch {state}")
        batch_id = await _start(fleet, victim)
        other_batch = await _start(fleet, other)
        # The batch may have been taken up by the other server after its wait: then nobody dies.
        if state in (BatchState.PREPROCESSING, BatchState.EXTRACTING):
            assert await fleet.struck(victim) in (batch_id, other_batch)
        [row, beside] = await fleet.completed(batch_id, other_batch)
        assert row["losses"] <= 1
        assert beside["losses"] <= 1
        for each in (batch_id, other_batch):
            assert _found(fleet, each) == _found(fleet, whole)
            _nothing_finished_ran_again(fleet, each)
            children = fleet.rows("SELECT status FROM workflow_metadata WHERE batch_id = %s", [each])
            assert [child["status"] for child in children] == ["completed"] * 12


@pytest.mark.parametrize("state", [BatchState.RESOLVING, BatchState.VALIDATING, BatchState.INGESTING])
async def test_the_only_server_is_killed_in_a_later_state(
    postgres_dsn: str, tmp_path: Path, corpus: Path, state: BatchState
) -> None:
    async with open_fleet(tmp_path, postgres_dsn, 1, DOCUMENTS_DIR=str(corpus)) as fleet:
        [server] = fleet.servers
        whole = await _start(fleet, server)
        await fleet.completed(whole)
        fleet.arm(server, f"batch {state}")
        batch_id = await _start(fleet, server)
        assert await fleet.struck(server) == batch_id
        await server.start()
        [row] = await fleet.completed(batch_id)
        assert row["losses"] == 1
        assert _found(fleet, batch_id) == _found(fleet, whole)
        _nothing_finished_ran_again(fleet, batch_id)


_ACTIVE = """
    SELECT FROM pg_stat_activity
     WHERE datname = current_database() AND state = 'active' AND pid <> pg_backend_pid()
"""
_READERS = """
    SELECT runner.pid, count(*) AS n FROM workflow_metadata AS batch
      JOIN workflow_metadata AS run ON run.batch_id = batch.run_id AND run.status = 'running'
      JOIN workflow_runner AS runner ON runner.owner = run.lease_owner
     WHERE batch.run_id = %s AND batch.status = 'waiting' GROUP BY 1
"""


async def test_a_kill_while_the_documents_are_read(postgres_dsn: str, tmp_path: Path, corpus: Path) -> None:
    async with open_fleet(tmp_path, postgres_dsn, DOCUMENTS_DIR=str(corpus), WORKER_CONCURRENCY="3") as fleet:
        victim, other = fleet.servers
        whole = await _start(fleet, other)
        await fleet.completed(whole)
        batch_id = await _start(fleet, victim, throttleSeconds=0.2)

        async def caught() -> bool:
            """Whether both read documents at this moment, in which the victim is frozen."""
            os.kill(victim.pid, signal.SIGSTOP)
            await until(lambda: not fleet.rows(_ACTIVE), what="what it has sent is done")
            running = fleet.rows(_READERS, [batch_id])
            assert all(row["n"] <= 3 for row in running), running
            if {row["pid"] for row in running} == {victim.pid, other.pid}:
                return True
            os.kill(victim.pid, signal.SIGCONT)
            return False

        await until(caught, what="both servers read documents")
        assert fleet.row(batch_id)["status"] == "waiting"
        await victim.kill()
        [row] = await fleet.completed(batch_id)
        assert row["losses"] == 0
        assert _found(fleet, batch_id) == _found(fleet, whole)
        lost = fleet.rows("SELECT losses FROM workflow_metadata WHERE batch_id = %s AND losses > 0", [batch_id])
        assert 0 < len(lost) <= 3
