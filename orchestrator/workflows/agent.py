"""The agent workflow: plan → work → review over a role and a task.

With a chat model, each step is one question to it. Without, the steps are worked out by rules: the task's
verb and the role choose a plan, the work is a brief that takes the plan through, and the review checks the
brief against the task. The rules do not do the task; they give a deterministic run whose every step can be
read and checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from orchestrator.workflows.extraction.chat import load_chat_model
from orchestrator.workflows.extraction.errors import WorkflowInputError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

__all__ = ["AgentInput", "AgentOutput", "AgentState", "Check", "Review", "build_agent"]

MAX_ROLE_CHARS = 200
MAX_TASK_CHARS = 20_000
_MAX_STEPS = 12


class Check(TypedDict):
    """One question of the review and its answer."""

    name: str
    passed: bool
    note: str


class Review(TypedDict):
    """The verdict is "approved" or "changes requested"."""

    verdict: str
    summary: str
    checks: list[Check]


class AgentInput(TypedDict):
    """Who is to do what."""

    role: str
    task: str


class AgentOutput(TypedDict):
    """The input again, and what each step made of it."""

    role: str
    task: str
    plan: list[str]
    result: str
    review: Review


class AgentState(AgentInput, total=False):
    """Everything that is checkpointed."""

    plan: list[str]
    result: str
    review: Review


def build_agent(
    model: str | BaseChatModel | None = None, documents: Path | None = None
) -> StateGraph[AgentState, None, AgentInput, AgentOutput]:
    """Return the workflow, not compiled; `model` names a chat model, or is one; None means rules.

    It reads no files, so `documents` changes nothing.
    """
    steps: _Steps = _RuleSteps() if model is None else _ModelSteps(model)
    builder = StateGraph(AgentState, input_schema=AgentInput, output_schema=AgentOutput)

    async def plan(state: AgentState) -> dict[str, object]:
        brief = _brief(state)
        return {"role": brief.role, "task": brief.task, "plan": await steps.plan(brief)}

    async def work(state: AgentState) -> dict[str, object]:
        return {"result": await steps.work(_brief(state), state["plan"])}

    async def review(state: AgentState) -> dict[str, object]:
        return {"review": await steps.review(_brief(state), state["plan"], state["result"])}

    builder.add_node("plan", plan)
    builder.add_node("work", work)
    builder.add_node("review", review)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "work")
    builder.add_edge("work", "review")
    builder.add_edge("review", END)
    return builder


class _Brief(NamedTuple):
    role: str
    task: str


def _brief(state: Mapping[str, object]) -> _Brief:
    return _Brief(_text(state, "role", MAX_ROLE_CHARS), _text(state, "task", MAX_TASK_CHARS))


def _text(state: Mapping[str, object], key: str, max_chars: int) -> str:
    value = state.get(key)
    if not isinstance(value, str):
        given = "nothing" if value is None else type(value).__name__
        raise WorkflowInputError(f"{key!r} takes a string, not {given}")
    if not value.strip():
        raise WorkflowInputError(f"{key!r} is empty")
    if len(value) > max_chars:
        raise WorkflowInputError(f"{key!r} has {len(value)} characters; it may have {max_chars}")
    return value.strip()


class _Steps(Protocol):
    async def plan(self, brief: _Brief) -> list[str]: ...

    async def work(self, brief: _Brief, plan: list[str]) -> str: ...

    async def review(self, brief: _Brief, plan: list[str], result: str) -> Review: ...


class _Kind(NamedTuple):
    """A kind of task: the verbs that show it, how its plan opens and closes, and when one part of it is done."""

    name: str
    verbs: str
    opening: tuple[str, ...]
    each: str
    closing: tuple[str, ...]
    done: str


_GENERAL = _Kind(
    "general",
    "",
    (
        "Say in one sentence what will be true once this is done: {subject}",
        "List what is known and what is missing",
    ),
    "Work on {part}",
    (
        "Compare the outcome with the sentence from the first step",
        "Hand over the result with its open points",
    ),
    "the outcome can be shown to somebody who did not do the work",
)
_KINDS = (
    _Kind(
        "fix",
        "fix debug repair solve resolve correct",
        (
            "Reproduce the fault with the smallest input: {subject}",
            "Find the first place where state and expectation part",
        ),
        "Correct {part} at its cause",
        (
            "Keep the reproduction as a test that failed before and passes now",
            "Look for the same fault elsewhere",
        ),
        "the reproduction passes and nothing that passed before fails",
    ),
    _Kind(
        "test",
        "test check verify validate prove benchmark measure",
        (
            "Write down what must hold for {subject}",
            "Set up the smallest surroundings in which that can be seen to fail",
        ),
        "Exercise {part}: the usual case, the limits, bad input, and a restart halfway",
        ("Record every failure with the input that shows it", "Say what was not tested, and why"),
        "a check exists that would fail if it did not hold",
    ),
    _Kind(
        "investigate",
        "investigate analyse analyze research explore compare evaluate find understand study audit",
        (
            "Turn it into questions with an answer: {subject}",
            "Gather the sources, and note how far each can be trusted",
        ),
        "Answer {part} from the evidence",
        ("Separate what was seen from what was concluded", "Recommend, with the strongest point against"),
        "the answer names its evidence",
    ),
    _Kind(
        "migrate",
        "migrate move port convert upgrade replace switch",
        (
            "Take stock of what exists and who depends on it: {subject}",
            "Choose the way back before the way forward",
        ),
        "Move {part}, old and new side by side",
        ("Compare old and new on the same input", "Switch over, watch, and remove the old way last"),
        "old and new give the same answers and the way back has been walked once",
    ),
    _Kind(
        "design",
        "design plan outline model sketch propose architect define specify",
        (
            "Collect what the design must satisfy, and what it may not cost: {subject}",
            "Sketch two different answers",
        ),
        "Decide {part}, with the reason and what it rules out",
        (
            "Try the riskiest assumption on something small",
            "Write down the decision and when to look at it again",
        ),
        "somebody else could build it from the description",
    ),
    _Kind(
        "write",
        "write document describe explain draft summarize summarise translate edit",
        (
            "Name the reader and what they will do with it: {subject}",
            "Order the points by what the reader needs first",
        ),
        "Draft {part}, one idea to a paragraph",
        ("Cut what the reader does not need", "Read it aloud once, and check every fact and example"),
        "the reader can act on it without asking back",
    ),
    _Kind(
        "build",
        "build implement create add make develop code write-up extend support integrate refactor improve optimize",
        (
            "Describe the behaviour that shows it works: {subject}",
            "Choose the smallest slice that goes end to end",
        ),
        "Build {part} together with its tests",
        (
            "Run all tests, then try it by hand as its user would",
            "Write down how it is used and what it does not do",
        ),
        "its behaviour is shown by a test that failed before",
    ),
)
_ROLES = (
    (r"dev|engineer|programmer|coder", "working code with its tests"),
    (r"test|qa|quality", "checks that can fail, and what they showed"),
    (r"ops|sre|admin|platform", "a change that can be watched and undone"),
    (r"writ|editor|author|docs", "a text for a named reader"),
    (r"research|analy|scien|data", "findings with their evidence"),
    (r"design|architect", "decisions with their reasons"),
    (r"manag|lead|owner|product", "an agreed scope, with owners and dates"),
    (r"review|audit|security", "findings, ordered by what they cost"),
)
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")
_PART_END = re.compile(r"(?<=[.!?;])\s+|\n+|,?\s+(?:and then|then)\s+")
_WORD = re.compile(r"[^\W_][\w'’-]*")
_SMALL_WORDS = frozenset({
    "about", "after", "also", "because", "before", "could", "does", "from", "have", "into", "must", "please",
    "shall", "should", "some", "such", "than", "that", "their", "them", "then", "there", "these", "they", "this",
    "those", "what", "when", "where", "which", "while", "will", "with", "would", "your",
})  # fmt: skip


class _RuleSteps:
    """The workflow without a model."""

    async def plan(self, brief: _Brief) -> list[str]:
        kind, parts = _kind_of(brief.task), _parts(brief.task)
        opening = [step.format(subject=_subject(brief.task, kind)) for step in kind.opening]
        middle = [kind.each.format(part=_quoted(_without_verb(part, kind))) for part in parts]
        closing = [*kind.closing, f"Deliver, as {brief.role}: {_deliverable(brief.role)}"]
        return [*opening, *middle, *closing]

    async def work(self, brief: _Brief, plan: list[str]) -> str:
        kind, parts = _kind_of(brief.task), _parts(brief.task)
        lines = [
            f"# {_title(brief.task)}",
            "",
            f"Role: {brief.role}. Kind of task: {kind.name}.",
            "",
            "## Steps",
            "",
        ]
        lines += [f"{number}. {step}." for number, step in enumerate(plan, start=1)]
        lines += ["", "## Done when", ""]
        lines += [f"- {_capitalized(part.rstrip('.!?;'))}: {kind.done}." for part in parts]
        if terms := _terms(brief.task):
            lines += ["", "## Terms to settle first", "", ", ".join(terms[:_MAX_STEPS]) + "."]
        return "\n".join(lines) + "\n"

    async def review(self, brief: _Brief, plan: list[str], result: str) -> Review:
        folded = result.casefold()
        left_out = [step for step in plan if step.casefold() not in folded]
        unsaid = [term for term in _terms(brief.task) if term not in folded]
        open_parts = [part for part in _parts(brief.task) if f"{part.rstrip('.!?;')}: ".casefold() not in folded]
        return _reviewed(
            [
                _check("every step of the plan is taken up", left_out),
                _check("the task's own terms are covered", unsaid),
                _check("every part says when it is done", open_parts),
            ]
        )


class _ModelSteps:
    """The workflow with a chat model: one question a step."""

    def __init__(self, model: str | BaseChatModel) -> None:
        self._model = load_chat_model(model) if isinstance(model, str) else model

    async def plan(self, brief: _Brief) -> list[str]:
        answer = await self._ask(
            f"You are: {brief.role}.\nPlan this task in at most {_MAX_STEPS} short steps, one a line, "
            f"and write nothing else.\n\n{brief.task}"
        )
        steps = [_LIST_MARK.sub("", line).strip() for line in answer.splitlines()]
        return [step for step in steps if step][:_MAX_STEPS] or [brief.task]

    async def work(self, brief: _Brief, plan: list[str]) -> str:
        numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(plan, start=1))
        return await self._ask(
            f"You are: {brief.role}.\nDo this task, following the plan.\n\nTask: {brief.task}\n\nPlan:\n{numbered}"
        )

    async def review(self, brief: _Brief, plan: list[str], result: str) -> Review:
        answer = await self._ask(
            "Review this result. Write APPROVED or CHANGES REQUESTED on the first line, and the reasons after it."
            f"\n\nTask: {brief.task}\n\nResult:\n{result}"
        )
        verdict, _, reasons = answer.partition("\n")
        approved = verdict.strip(" *#.:").upper().startswith("APPROVED")
        note = reasons.strip() or verdict.strip()
        return _reviewed([Check(name="the model's judgement", passed=approved, note=note)])

    async def _ask(self, prompt: str) -> str:
        message = await self._model.ainvoke(prompt)
        return str(message.text).strip()


def _kind_of(task: str) -> _Kind:
    """The kind whose verb comes first in the task."""
    for word in _WORD.findall(task.lower()):
        for kind in _KINDS:
            if word in kind.verbs.split():
                return kind
    return _GENERAL


def _parts(task: str) -> list[str]:
    """The things that the task asks for, as it lists them; at least one."""
    found = [" ".join(_LIST_MARK.sub("", part).split()) for part in _PART_END.split(task)]
    found = [re.sub(r"^(?:and )?then ", "", part) for part in found]
    parts = [part for part in found if _WORD.search(part) and not part.endswith(":")]
    return parts[:_MAX_STEPS] or [" ".join(task.split())]


def _subject(task: str, kind: _Kind) -> str:
    return _quoted(_without_verb(_title(task), kind))


def _without_verb(part: str, kind: _Kind) -> str:
    first, _, rest = part.partition(" ")
    return rest if rest and first.lower().strip(",:") in kind.verbs.split() else part


def _title(task: str) -> str:
    line = " ".join(_LIST_MARK.sub("", task.strip().splitlines()[0]).split()).rstrip(".!?:;")
    return _capitalized(line if len(line) <= 80 else line[:79].rsplit(" ", 1)[0] + "…")


def _capitalized(text: str) -> str:
    # Some letters have no capital of their own: "ß" would become two.
    return text[:1].upper() + text[1:] if text[:1].isascii() else text


def _quoted(text: str) -> str:
    return f"“{text.rstrip('.!?;')}”"


def _deliverable(role: str) -> str:
    found = (deliverable for pattern, deliverable in _ROLES if re.search(pattern, role.lower()))
    return next(found, "the result, and how it was reached")


def _terms(task: str) -> list[str]:
    """The telling words of the task, each once, in order."""
    words = [word for part in _parts(task) for word in _WORD.findall(part.casefold())]
    return [word for word in dict.fromkeys(words) if len(word) > 3 and word not in _SMALL_WORDS]


def _check(name: str, missing: list[str]) -> Check:
    note = "" if not missing else "missing: " + "; ".join(missing[:5])
    return Check(name=name, passed=not missing, note=note)


def _reviewed(checks: list[Check]) -> Review:
    failed = [check for check in checks if not check["passed"]]
    summary = f"{len(checks) - len(failed)} of {len(checks)} checks passed"
    return Review(verdict="changes requested" if failed else "approved", summary=summary, checks=checks)
