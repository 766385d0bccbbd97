"""The agent workflow, by rules and with a chat model."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph

from orchestrator.workflows import SHIPPED, ModelSupportError, WorkflowInputError, build_agent


async def run(payload: dict[str, Any], model: Any = None) -> dict[str, Any]:
    return await build_agent(model).compile().ainvoke(payload)  # type: ignore[call-overload, no-any-return]


def test_shipped_builders_need_no_argument_and_are_not_compiled() -> None:
    assert sorted(SHIPPED) == ["agent", "extraction"]
    assert all(isinstance(build(), StateGraph) for build in SHIPPED.values())


async def test_rules_give_plan_result_and_review() -> None:
    output = await run({"role": "dev", "task": "test persistence"})

    assert output["role"] == "dev"
    assert any("“persistence”" in step for step in output["plan"])
    assert output["result"].startswith("# Test persistence\n")
    assert all(step in output["result"] for step in output["plan"])
    assert output["review"]["verdict"] == "approved"
    assert [check["passed"] for check in output["review"]["checks"]] == [True, True, True]


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("Fix the login page", "fix"),
        ("Please write a guide", "write"),
        ("Migrate the users to Postgres", "migrate"),
        ("Investigate why builds are slow", "investigate"),
        ("Add a cache", "build"),
        ("Sunflowers", "general"),
    ],
)
async def test_the_first_verb_decides_the_kind(task: str, kind: str) -> None:
    assert f"Kind of task: {kind}." in (await run({"role": "dev", "task": task}))["result"]


async def test_every_part_of_a_task_gets_a_step_of_its_own() -> None:
    task = "Write three pages:\n- explain the flag\n- describe the health endpoint\n- list the limits"
    plan = (await run({"role": "technical writer", "task": task}))["plan"]

    for part in ("the flag", "the health endpoint", "list the limits"):
        assert any(f"“{part}”" in step for step in plan), part
    assert plan[-1] == "Deliver, as technical writer: a text for a named reader"


@given(role=st.text(min_size=1, max_size=200), task=st.text(min_size=1, max_size=2000))
async def test_any_role_and_task_is_answered_in_the_same_way_twice(role: str, task: str) -> None:
    payload = {"role": role, "task": task}
    if not role.strip() or not task.strip():
        with pytest.raises(WorkflowInputError):
            await run(payload)
        return
    first, second = await run(payload), await run(payload)
    assert first == second
    assert first["review"]["verdict"] == "approved"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"role": "dev"}, "'task' takes a string, not nothing"),
        ({"task": "test"}, "'role' takes a string, not nothing"),
        ({"role": "dev", "task": 7}, "'task' takes a string, not int"),
        ({"role": "  ", "task": "test"}, "'role' is empty"),
        ({"role": "r" * 201, "task": "test"}, "'role' has 201 characters; it may have 200"),
    ],
)
async def test_wrong_input_is_refused(payload: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkflowInputError, match=f"^{message}"):
        await run(payload)


async def test_a_run_resumes_after_its_last_finished_step() -> None:
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "t"}}
    stopped = build_agent().compile(checkpointer=saver, interrupt_after=["plan"])
    await stopped.ainvoke({"role": "dev", "task": "test persistence"}, config)
    assert (await stopped.aget_state(config)).next == ("work",)

    output: Any = await build_agent().compile(checkpointer=saver).ainvoke(None, config)
    assert output == await run({"role": "dev", "task": "test persistence"})


async def test_a_chat_model_does_the_steps() -> None:
    answers = ["1. Look\n2. Do\n\n- Tell", "It is done.", "**APPROVED**\nIt holds."]
    output = await run({"role": "dev", "task": "test"}, FakeListChatModel(responses=answers))

    assert output["plan"] == ["Look", "Do", "Tell"]
    assert output["result"] == "It is done."
    assert output["review"]["verdict"] == "approved"
    assert output["review"]["checks"][0]["note"] == "It holds."


async def test_a_chat_model_can_ask_for_changes() -> None:
    model = FakeListChatModel(responses=["Do", "Done.", "Changes requested\nToo short."])
    output = await run({"role": "dev", "task": "test"}, model)

    assert output["review"]["verdict"] == "changes requested"
    assert output["review"]["summary"] == "0 of 1 checks passed"


@pytest.mark.parametrize("workflow", ["agent", "extraction"])
def test_a_model_without_langchain_names_the_remedy(workflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(ModelSupportError, match=r"'provider:some-model'.*pip install 'holdfast\[llm\]'"):
        SHIPPED[workflow]("provider:some-model")


@pytest.mark.parametrize("workflow", ["agent", "extraction"])
def test_a_model_name_is_given_to_langchain(workflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def init_chat_model(name: str) -> FakeListChatModel:
        asked.append(name)
        return FakeListChatModel(responses=[""])

    monkeypatch.setitem(sys.modules, "langchain", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "langchain.chat_models", SimpleNamespace(init_chat_model=init_chat_model))
    SHIPPED[workflow]("provider:some-model")
    assert asked == ["provider:some-model"]


def test_a_missing_provider_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init_chat_model(name: str) -> None:
        raise ImportError("pip install langchain-provider")

    monkeypatch.setitem(sys.modules, "langchain", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "langchain.chat_models", SimpleNamespace(init_chat_model=init_chat_model))
    with pytest.raises(ModelSupportError, match="langchain-provider"):
        build_agent("provider:some-model")
